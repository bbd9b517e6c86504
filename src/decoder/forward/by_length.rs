//! [`ByLength`]: a rotation that may depend on the context's size.

use std::sync::{Arc, Mutex, PoisonError};

use crate::decoder::rope;
use crate::error::Result;
use crate::mlx::Rope;

/// A rotation in contexts of any length, as MLX's arrays for that of the last one.
pub struct ByLength {
    rope: rope::Rope,
    made: Mutex<(u32, Arc<Rope>)>,
}

impl ByLength {
    pub fn new(rope: &rope::Rope) -> Result<ByLength> {
        let plain = Rope::new(rope.pairing, &rope.wavelengths, rope.magnitude)?;
        Ok(ByLength {
            rope: rope.clone(),
            made: Mutex::new((rope.kind(0), Arc::new(plain))),
        })
    }

    pub fn of(&self, max_tokens: usize) -> Result<Arc<Rope>> {
        let kind = self.rope.kind(max_tokens);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != kind {
            let rope = self.rope.in_context_of(max_tokens);
            let rope = Rope::new(rope.pairing, &rope.wavelengths, rope.magnitude)?;
            *made = (kind, Arc::new(rope));
        }
        Ok(made.1.clone())
    }
}
