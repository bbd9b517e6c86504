//! Which instructions compute what.

use super::codes::{self, CodeRows};
use super::halves::HalfRows;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::panels::PANEL;
#[cfg(target_arch = "x86_64")]
use super::planes::part_size;
use super::planes::{Order, Planes};
use super::scalar;
use super::tiles::Tile;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::kernels::float::Float;
use crate::kernels::level::Level;
use crate::kernels::quantized::{Format, QuantizedRows};

impl Level {
    /// The sum of `weights[i] * x[i]`, with `x.len()` packed weights.
    pub fn dot(self, float: Float, weights: &[u8], x: &[f32]) -> f32 {
        assert_eq!(weights.len(), x.len() * float.bytes());
        match self {
            Level::Scalar => scalar::dot(float, weights, x),
            // SAFETY: the level is there; the lengths agree.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::dot(float, weights, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::dot(float, weights, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => unsafe { neon::dot(float, weights, x) },
        }
    }

    /// The sum of `row[i] * x[i]`.
    pub fn dot_f32(self, row: &[f32], x: &[f32]) -> f32 {
        // SAFETY: any float32 is four bytes, and bytes have no alignment.
        let bytes = unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), size_of_val(row)) };
        self.dot(Float::F32, bytes, x)
    }

    /// The products of one row with four rows of activations, each
    /// `weights.len()` long and after one another.
    pub fn dot4(self, weights: &[f32], x: &[f32]) -> [f32; 4] {
        assert_eq!(x.len(), 4 * weights.len());
        match self {
            Level::Scalar => scalar::dot4(weights, x),
            // SAFETY: the level is there; the lengths agree.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::dot4(weights, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::dot4(weights, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => unsafe { neon::dot4(weights, x) },
        }
    }

    /// In which order codes are multiplied as integers; `None`: they aren't.
    pub fn code_order(self, weights: &QuantizedRows<'_>) -> Option<Order> {
        let nibbles = weights.format.bits() == 4;
        let order = match (self, nibbles) {
            (Level::Scalar, _) => None,
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, _) => nibbles.then_some(Order::Nibbles { unit: 32 }),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, true) => Some(Order::Parts {
                size: part_size(weights.format),
            }),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, false) => Some(Order::Plain { unit: 64 }),
            #[cfg(target_arch = "aarch64")]
            (Level::Neon | Level::NeonDot, true) => Some(Order::Nibbles { unit: neon::UNIT }),
            #[cfg(target_arch = "aarch64")]
            (Level::Neon | Level::NeonDot, false) => Some(Order::Plain { unit: neon::UNIT }),
        };
        order.filter(|_| codes::largest(weights.format).is_some())
    }

    /// The products of all rows of codes with all of `x`: `out` is `[n, rows]`.
    pub fn multiply_codes(self, rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
        assert!(x.fit(rows) && out.len() == x.n() * rows.len());
        match self {
            Level::Scalar => scalar::multiply_codes(rows, x, out),
            // SAFETY: the level is there; the sizes were checked.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::multiply_codes(rows, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::multiply_codes(rows, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::multiply_codes(rows, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => unsafe { neon::multiply_codes_dot(rows, x, out) },
        }
    }

    /// A group of activations as 15-bit integers; gives their scale and
    /// their sum. A value is about `scale * (128 * high + low)`.
    pub fn split(self, values: &[f32], high: &mut [i8], low: &mut [i8]) -> (f32, f32) {
        assert!(values.len() == high.len() && values.len() == low.len());
        assert!(values.len().is_multiple_of(16));
        match self {
            // SAFETY: the level is there; the lengths were checked.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::split(values, high, low) },
            _ => scalar::split(values, high, low),
        }
    }

    /// A group of activations as bytes; gives their scale and their sum.
    pub fn round_to_bytes(self, values: &[f32], out: &mut [i8]) -> (f32, f32) {
        assert_eq!(values.len(), out.len());
        assert!(values.len().is_multiple_of(16));
        match self {
            // SAFETY: the level is there; the lengths were checked.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::round_to_bytes(values, out) },
            _ => scalar::round_to_bytes(values, out),
        }
    }

    /// Whether there are products of bfloat16 numbers.
    pub fn has_dot_halves(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => true,
            _ => false,
        }
    }

    /// Whether tiles multiply such codes as whole numbers.
    pub fn has_code_tiles(self, format: Format) -> bool {
        let most = match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Some(avx2::LARGEST_CODE),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Some(u8::MAX),
            _ => None,
        };
        let largest = codes::largest(format);
        largest.zip(most).is_some_and(|(code, most)| code <= most)
    }

    /// The products of rows of bfloat16 weights with all of `x`: `out` is
    /// `[n, rows]`.
    pub fn multiply_halves(self, weights: &[u8], x: &HalfRows, out: &mut [f32]) {
        assert!(weights.len().is_multiple_of(x.row_bytes()));
        assert_eq!(out.len(), x.n() * (weights.len() / x.row_bytes()));
        match self {
            // SAFETY: the level is there; the lengths were checked.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::multiply_halves(weights, x, out) },
            _ => unreachable!("`has_dot_halves` says so"),
        }
    }

    /// Rows of a tile; of codes or not.
    pub fn tile_rows(self, codes: bool) -> usize {
        match (self, codes) {
            (Level::Scalar, _) => scalar::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, true) => avx2::TILE_ROWS_CODES,
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, false) => avx2::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, true) => avx512::TILE_ROWS_CODES,
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, false) => avx512::TILE_ROWS,
            #[cfg(target_arch = "aarch64")]
            (Level::Neon | Level::NeonDot, _) => neon::TILE_ROWS,
        }
    }

    /// `[rows, 16]` -> `[16, rows]`
    pub fn transpose_panel(self, from: &[f32], to: &mut [f32]) {
        assert!(from.len() == to.len() && from.len().is_multiple_of(PANEL));
        match self {
            // SAFETY: the level is there; the lengths were checked.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::transpose_panel(from, to) },
            _ => scalar::transpose_panel(from, to, 0),
        }
    }

    /// # Safety
    /// What the tile describes is there, with one panel or two.
    pub unsafe fn tile_f32(self, tile: &Tile, panels: usize) {
        // SAFETY: the level is there; the rest is the caller's.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 if panels == 2 => avx512::tile_f32::<2>(tile),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512::tile_f32::<1>(tile),
                _ => {
                    for panel in 0..panels {
                        let tile = tile.panel(panel);
                        match self {
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx2 => avx2::tile_f32(&tile),
                            #[cfg(target_arch = "aarch64")]
                            Level::Neon | Level::NeonDot => neon::tile_f32(&tile),
                            _ => scalar::tile_f32(&tile),
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for `tile_f32`, and `has_dot_halves`.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "no other level has such products")
    )]
    pub unsafe fn tile_bf16(self, tile: &Tile, panels: usize) {
        match (self, panels) {
            // SAFETY: the level is there; the rest is the caller's.
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, 2) => unsafe { avx512::tile_bf16::<2>(tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, _) => unsafe { avx512::tile_bf16::<1>(tile) },
            _ => unreachable!("`has_dot_halves` says so"),
        }
    }

    /// # Safety
    /// As for `tile_f32`, with groups.
    pub unsafe fn tile_codes(self, tile: &Tile, panels: usize) {
        match (self, panels) {
            // SAFETY: the level is there; the rest is the caller's.
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, 2) => unsafe { avx512::tile_codes::<2>(tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, _) => unsafe { avx512::tile_codes::<1>(tile) },
            _ => {
                for panel in 0..panels {
                    let tile = tile.panel(panel);
                    // SAFETY: the level is there; the rest is the caller's.
                    unsafe {
                        match self {
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx2 => avx2::tile_codes(&tile),
                            _ => scalar::tile_codes(&tile, self.tile_rows(true)),
                        }
                    }
                }
            }
        }
    }
}
