//! Checkpoints whose pieces lie elsewhere: the same pieces in any valid arrangement are
//! the same model to the last bit, and arrangements that are not valid are refused.

mod gguf;
mod safetensors;

use std::path::Path;
use std::sync::Arc;

use umrt::error::{Result, Status};
use umrt::runtime::{Adapter, Model};

use crate::common::random::Random;
use crate::common::{context, eval, try_open};

const PROMPT: [i32; 5] = [1, 5, 2, 59, 7];

fn logits_of(path: &Path) -> Result<Vec<f32>> {
    Ok(eval(&mut context(&try_open(path)?), &PROMPT))
}

fn logits_with(model: &Arc<Model>, adapter: &Path) -> Result<Vec<f32>> {
    let adapter = Adapter::open(model, adapter)?;
    let mut context = context(model);
    context.set_adapters(&[(adapter, 1.0)])?;
    Ok(eval(&mut context, &PROMPT))
}

#[track_caller]
fn assert_refused<T>(result: Result<T>) {
    let error = result.err().expect("refused");
    assert_eq!(error.status(), Status::Format, "{error}");
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for end in (1..items.len()).rev() {
        items.swap(end, (random.next() % (end as u64 + 1)) as usize);
    }
}
