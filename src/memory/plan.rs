//! How much memory a model takes and how fast it can be, by its numbers alone:
//! for models that are not here yet.

use super::machine::{DEFAULT_FRACTION, fraction_of};
use crate::error::{Error, Result};

/// Tokens whose keys and values are allocated together.
pub const KV_BLOCK_TOKENS: usize = 256;

/// What is known of a model and a machine.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub n_parameters: u64,
    /// Those that compute a token, in a mixture of experts fewer than all.
    pub n_active_parameters: u64,
    pub bits_per_weight: f64,
    pub n_layers: u32,
    pub n_kv_heads: u32,
    pub head_dim: u32,
    pub kv_bits: f64,
    pub n_ctx: u32,
    pub n_sequences: u32,
    pub memory_bytes: u64,
    /// The share of the memory that models may use.
    pub fraction: f64,
    /// Bytes that the machine reads per second; 0: unknown.
    pub bytes_per_second: f64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            n_parameters: 0,
            n_active_parameters: 0,
            bits_per_weight: 16.0,
            n_layers: 0,
            n_kv_heads: 0,
            head_dim: 0,
            kv_bits: 16.0,
            n_ctx: 0,
            n_sequences: 1,
            memory_bytes: 0,
            fraction: DEFAULT_FRACTION,
            bytes_per_second: 0.0,
        }
    }
}

/// What follows from them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumbersPlan {
    pub weight_bytes: u64,
    pub kv_bytes_per_token: u64,
    /// All sequences at `n_ctx`, in whole blocks.
    pub kv_bytes: u64,
    pub total_bytes: u64,
    pub usable_bytes: u64,
    pub fits: bool,
    /// The largest context that fits with as many sequences, in whole blocks;
    /// 0: not even the weights and one block do.
    pub max_n_ctx: u32,
    /// With an empty cache: the bandwidth over the weights. 0: unknown.
    pub tokens_per_second: f64,
    /// With one full sequence.
    pub tokens_per_second_full: f64,
}

/// Keys and values of one token in all layers.
pub fn kv_bytes_per_token(n_layers: u64, n_kv_heads: u64, head_dim: u64, bits: f64) -> f64 {
    2.0 * n_layers as f64 * n_kv_heads as f64 * head_dim as f64 * bits / 8.0
}

impl Numbers {
    /// Weights are parameters times bits, keys and values two vectors per layer,
    /// head and token. Decoding reads all of it once per token, so the bandwidth
    /// bounds its speed.
    pub fn plan(&self) -> Result<NumbersPlan> {
        self.validate()?;
        let weights = self.n_parameters as f64 * self.bits_per_weight / 8.0;
        let per_token = kv_bytes_per_token(
            self.n_layers.into(),
            self.n_kv_heads.into(),
            self.head_dim.into(),
            self.kv_bits,
        );
        let sequences = f64::from(self.n_sequences.max(1));
        let kv_of = |n_ctx: u32| {
            per_token * (n_ctx as usize).next_multiple_of(KV_BLOCK_TOKENS) as f64 * sequences
        };
        let usable = fraction_of(self.memory_bytes as usize, self.fraction) as f64;
        let total = weights + kv_of(self.n_ctx);
        let active = match self.n_active_parameters {
            0 => weights,
            active => active as f64 * self.bits_per_weight / 8.0,
        };
        let speed = |read: f64| match read > 0.0 {
            true => self.bytes_per_second / read,
            false => 0.0,
        };
        Ok(NumbersPlan {
            weight_bytes: weights as u64,
            kv_bytes_per_token: per_token as u64,
            kv_bytes: kv_of(self.n_ctx) as u64,
            total_bytes: total as u64,
            usable_bytes: usable as u64,
            fits: total <= usable,
            max_n_ctx: largest_context(weights, per_token * sequences, usable),
            tokens_per_second: speed(active),
            tokens_per_second_full: speed(active + per_token * f64::from(self.n_ctx)),
        })
    }

    fn validate(&self) -> Result<()> {
        let checks = [
            ("bits_per_weight", self.bits_per_weight, 64.0),
            ("kv_bits", self.kv_bits, 64.0),
            ("fraction", self.fraction, 1.0),
            ("the bandwidth", self.bytes_per_second, 1e18),
        ];
        for (name, value, most) in checks {
            let least_ok = value > 0.0 || (name == "the bandwidth" && value == 0.0);
            if !(least_ok && value <= most) {
                return Err(Error::invalid(format!(
                    "{name} is {value}; it is above 0 and at most {most}"
                )));
            }
        }
        Ok(())
    }
}

fn largest_context(weights: f64, per_position: f64, usable: f64) -> u32 {
    let left = usable - weights;
    if left < 0.0 {
        return 0;
    }
    let block = per_position * KV_BLOCK_TOKENS as f64;
    let most = u32::MAX - u32::MAX % KV_BLOCK_TOKENS as u32;
    match block > 0.0 {
        true => {
            (left / block)
                .floor()
                .min(f64::from(most / KV_BLOCK_TOKENS as u32)) as u32
                * KV_BLOCK_TOKENS as u32
        }
        false => most,
    }
}

/// The largest multiple of `step` up to `most`, or `most` itself, that fits; 0: none.
/// If a number fits, so do all smaller ones.
pub fn largest(step: usize, most: usize, fits: impl Fn(usize) -> bool) -> usize {
    if fits(most) {
        return most;
    }
    let (mut good, mut bad) = (0, most.div_ceil(step));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match fits(middle * step) {
            true => good = middle,
            false => bad = middle,
        }
    }
    good * step
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;
    const GIB: u64 = 1 << 30;

    fn plan(numbers: Numbers) -> NumbersPlan {
        numbers.plan().expect("valid numbers")
    }

    #[test]
    fn weights_are_parameters_times_bits() {
        let weights = |parameters: f64, bits| {
            let numbers = Numbers {
                n_parameters: parameters as u64,
                bits_per_weight: bits,
                ..Numbers::default()
            };
            plan(numbers).weight_bytes as f64 / GB as f64
        };
        for (parameters, at_16, at_8, at_4) in [
            (1e9, 2.0, 1.0, 0.5),
            (3e9, 6.0, 3.0, 1.5),
            (8e9, 16.0, 8.0, 4.0),
            (14e9, 28.0, 14.0, 7.0),
            (32e9, 64.0, 32.0, 16.0),
            (70e9, 140.0, 70.0, 35.0),
            (405e9, 810.0, 405.0, 202.5),
        ] {
            assert_eq!(weights(parameters, 16.0), at_16);
            assert_eq!(weights(parameters, 8.0), at_8);
            assert_eq!(weights(parameters, 4.0), at_4);
        }
        assert_eq!(weights(70e9, 4.5), 39.375, "with scales of groups of 64");
    }

    #[test]
    fn keys_and_values_of_well_known_models() {
        // Layers, key-value heads, head dimension; GiB at 4k, 8k, 32k, 128k in 16 bits.
        let models = [
            ("Llama 2 7B", (32, 32, 128), [2.0, 4.0, 16.0, 64.0]),
            ("Llama 3 8B", (32, 8, 128), [0.5, 1.0, 4.0, 16.0]),
            ("Llama 3 70B", (80, 8, 128), [1.25, 2.5, 10.0, 40.0]),
            ("Qwen 2.5 32B", (64, 8, 128), [1.0, 2.0, 8.0, 32.0]),
            ("Qwen 3 0.6B", (28, 8, 128), [0.4375, 0.875, 3.5, 14.0]),
        ];
        for (name, (n_layers, n_kv_heads, head_dim), expected) in models {
            for (n_ctx, gib) in [4096, 8192, 32_768, 131_072].into_iter().zip(expected) {
                let at = |kv_bits| {
                    plan(Numbers {
                        n_layers,
                        n_kv_heads,
                        head_dim,
                        kv_bits,
                        n_ctx,
                        ..Numbers::default()
                    })
                };
                let bytes = gib * GIB as f64;
                assert_eq!(at(16.0).kv_bytes as f64, bytes, "{name} at {n_ctx}");
                assert_eq!(at(8.0).kv_bytes as f64, bytes / 2.0, "{name} at {n_ctx}");
                assert_eq!(at(4.0).kv_bytes as f64, bytes / 4.0, "{name} at {n_ctx}");
            }
        }
    }

    #[test]
    fn three_quarters_of_the_memory_decide_what_fits() {
        let seventy = |memory: u64, bits| {
            plan(Numbers {
                n_parameters: 70 * GB,
                bits_per_weight: bits,
                n_layers: 80,
                n_kv_heads: 8,
                head_dim: 128,
                n_ctx: 8192,
                memory_bytes: memory * GB,
                ..Numbers::default()
            })
        };
        for (memory, usable, at_16, at_8, at_4) in [
            (32, 24, false, false, false),
            (64, 48, false, false, true),
            (96, 72, false, false, true),
            (128, 96, false, true, true),
            (192, 144, true, true, true),
        ] {
            assert_eq!(seventy(memory, 16.0).usable_bytes, usable * GB);
            let fits = [16.0, 8.0, 4.0].map(|bits| seventy(memory, bits).fits);
            assert_eq!(fits, [at_16, at_8, at_4], "in {memory} GB");
        }
    }

    #[test]
    fn the_largest_context_fits_and_one_block_more_does_not() {
        let numbers = Numbers {
            n_parameters: 8 * GB,
            bits_per_weight: 4.5,
            n_layers: 32,
            n_kv_heads: 8,
            head_dim: 128,
            n_sequences: 3,
            memory_bytes: 16 * GB,
            ..Numbers::default()
        };
        let max = plan(numbers).max_n_ctx;
        let fits = |n_ctx| plan(Numbers { n_ctx, ..numbers }).fits;
        assert!(max > 0 && max.is_multiple_of(256));
        assert!(fits(max) && !fits(max + 1));
        let too_large = Numbers {
            memory_bytes: 5 * GB,
            ..numbers
        };
        assert_eq!(plan(too_large).max_n_ctx, 0);
    }

    #[test]
    fn the_bandwidth_bounds_the_speed() {
        let speed = |gb_per_second: f64, parameters: f64| {
            let numbers = Numbers {
                n_parameters: parameters as u64,
                bits_per_weight: 4.0,
                bytes_per_second: gb_per_second * 1e9,
                ..Numbers::default()
            };
            plan(numbers).tokens_per_second
        };
        for (machine, bandwidth, at_8b, at_70b) in [
            ("M4", 120.0, 30.0, 120.0 / 35.0),
            ("M4 Pro", 273.0, 68.25, 7.8),
            ("M4 Max", 546.0, 136.5, 15.6),
            ("M2 Ultra", 800.0, 200.0, 800.0 / 35.0),
            ("H100", 3350.0, 837.5, 3350.0 / 35.0),
        ] {
            assert!((speed(bandwidth, 8e9) - at_8b).abs() < 1e-9, "{machine}");
            assert!((speed(bandwidth, 70e9) - at_70b).abs() < 1e-9, "{machine}");
        }
        let mixture = Numbers {
            n_parameters: 30 * GB,
            n_active_parameters: 3 * GB,
            bits_per_weight: 4.0,
            bytes_per_second: 120e9,
            ..Numbers::default()
        };
        assert_eq!(plan(mixture).tokens_per_second, 80.0);
        assert_eq!(plan(mixture).weight_bytes, 15 * GB);
    }

    #[test]
    fn a_full_cache_is_read_too() {
        let numbers = Numbers {
            n_parameters: 8 * GB,
            bits_per_weight: 4.0,
            n_layers: 32,
            n_kv_heads: 8,
            head_dim: 128,
            n_ctx: 32_768,
            bytes_per_second: 120e9,
            ..Numbers::default()
        };
        let plan = plan(numbers);
        let read = 4e9 + 4.0 * GIB as f64;
        assert!((plan.tokens_per_second_full - 120e9 / read).abs() < 1e-9);
    }

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        for (numbers, name) in [
            (
                Numbers {
                    bits_per_weight: 0.0,
                    ..Numbers::default()
                },
                "bits_per_weight",
            ),
            (
                Numbers {
                    kv_bits: f64::NAN,
                    ..Numbers::default()
                },
                "kv_bits",
            ),
            (
                Numbers {
                    fraction: 1.5,
                    ..Numbers::default()
                },
                "fraction",
            ),
            (
                Numbers {
                    bytes_per_second: -1.0,
                    ..Numbers::default()
                },
                "bandwidth",
            ),
        ] {
            let error = numbers.plan().expect_err(name);
            assert!(error.message().contains(name), "{error}");
        }
    }

    #[test]
    fn the_largest_that_fits_is_found() {
        for most in [1, 255, 256, 1000, 4096] {
            for bound in [0, 1, 255, 256, 700, 5000] {
                let found = largest(256, most, |n| n <= bound);
                let expected = match most <= bound {
                    true => most,
                    false => bound / 256 * 256,
                };
                assert_eq!(found, expected, "{most} {bound}");
            }
        }
    }
}
