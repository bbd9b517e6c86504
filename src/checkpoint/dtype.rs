//! Element types of stored tensors.

use std::fmt;

use safetensors::Dtype as Stored;

/// The element type of a tensor as stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    U16,
    I16,
    F16,
    BF16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

impl Dtype {
    pub const ALL: [Dtype; 17] = [
        Dtype::Bool,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8E4M3,
        Dtype::F8E5M2,
        Dtype::F8E8M0,
        Dtype::U16,
        Dtype::I16,
        Dtype::F16,
        Dtype::BF16,
        Dtype::U32,
        Dtype::I32,
        Dtype::F32,
        Dtype::U64,
        Dtype::I64,
        Dtype::F64,
        Dtype::C64,
    ];

    /// Bytes per element.
    pub fn size(self) -> usize {
        self.stored().bitsize() / 8
    }

    pub fn is_float(self) -> bool {
        matches!(
            self,
            Dtype::F8E4M3
                | Dtype::F8E5M2
                | Dtype::F8E8M0
                | Dtype::F16
                | Dtype::BF16
                | Dtype::F32
                | Dtype::F64
        )
    }

    /// `None` for the types narrower than a byte and for the FNUZ formats,
    /// which nothing here can compute with.
    pub(super) fn from_stored(stored: Stored) -> Option<Dtype> {
        Dtype::ALL
            .into_iter()
            .find(|dtype| dtype.stored() == stored)
    }

    pub(super) fn stored(self) -> Stored {
        match self {
            Dtype::Bool => Stored::BOOL,
            Dtype::U8 => Stored::U8,
            Dtype::I8 => Stored::I8,
            Dtype::F8E4M3 => Stored::F8_E4M3,
            Dtype::F8E5M2 => Stored::F8_E5M2,
            Dtype::F8E8M0 => Stored::F8_E8M0,
            Dtype::U16 => Stored::U16,
            Dtype::I16 => Stored::I16,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::BF16,
            Dtype::U32 => Stored::U32,
            Dtype::I32 => Stored::I32,
            Dtype::F32 => Stored::F32,
            Dtype::U64 => Stored::U64,
            Dtype::I64 => Stored::I64,
            Dtype::F64 => Stored::F64,
            Dtype::C64 => Stored::C64,
        }
    }
}

/// The name the safetensors format gives it, such as `BF16`.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stored().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_way_through_its_stored_name() {
        for dtype in Dtype::ALL {
            let stored: Stored = serde_json::from_value(dtype.to_string().into()).unwrap();
            assert_eq!(Dtype::from_stored(stored), Some(dtype));
        }
        assert_eq!(Dtype::from_stored(Stored::F4), None);
        assert_eq!(Dtype::from_stored(Stored::F8_E4M3FNUZ), None);
    }

    #[test]
    fn sizes_are_those_of_the_rust_types() {
        for (dtype, bytes) in [
            (Dtype::Bool, 1),
            (Dtype::F8E4M3, 1),
            (Dtype::BF16, size_of::<half::bf16>()),
            (Dtype::F16, size_of::<half::f16>()),
            (Dtype::U32, size_of::<u32>()),
            (Dtype::F64, size_of::<f64>()),
            (Dtype::C64, 2 * size_of::<f32>()),
        ] {
            assert_eq!(dtype.size(), bytes, "{dtype}");
        }
    }
}
