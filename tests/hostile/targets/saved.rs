//! Saved sequences, and prompt caches of mlx-lm. The checksums of the former are made right
//! before they are read, since nothing behind them would be reached otherwise.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use twox_hash::XxHash3_64;
use umrt::error::Result;
use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions};

use super::files::{Folder, header_of};
use super::{fixtures, join, parts, read};

/// Where the header says how long it is, and how many tokens there are.
const LENGTH_AT: usize = 12;
const N_TOKENS_AT: usize = 56;
const N_FLOATS_AT: usize = 64;
const CHUNK_TOKENS: usize = 256;
const CHECKSUM_BYTES: usize = 8;

/// Of prompt caches of mlx-lm.
const IMPORTED_TOKENS: i32 = 5;

/// Whose sequences have keys and values, and whose have states besides.
const ATTENTION: &str = "models/llama3-f32";
const STATES: &str = "models/lfm2-f32";

/// The one context for sequences of this model.
fn context(model: &'static str) -> MutexGuard<'static, Context> {
    static CONTEXTS: [OnceLock<Mutex<Context>>; 2] = [OnceLock::new(), OnceLock::new()];
    let context = &CONTEXTS[usize::from(model == STATES)];
    let made = context.get_or_init(|| Mutex::new(new_context(model)));
    made.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_context(model: &str) -> Context {
    let model: Arc<Model> =
        Model::open(&fixtures(model), ModelOptions::default()).expect("a model");
    let options = ContextOptions {
        n_ctx: 600,
        n_threads: 1,
        ..ContextOptions::default()
    };
    Context::new(&model, &options).expect("a context")
}

pub fn run(input: &[u8]) -> Result<()> {
    load(&mut context(ATTENTION), input, |length| length.min(2))
}

/// There is no way back into the middle of what has states.
pub fn run_states(input: &[u8]) -> Result<()> {
    load(&mut context(STATES), input, |_| 0)
}

/// What is loaded is what is saved again; what is refused changes nothing.
fn load(context: &mut Context, input: &[u8], kept: fn(usize) -> usize) -> Result<()> {
    let saved = with_checksums(input, context.kv_bytes_per_token());
    let before = state(context);
    if let Err(error) = context.load_from(0, &saved) {
        assert!(state(context) == before, "refused, but changed");
        return Err(error);
    }
    assert!(state(context) == saved, "not what was loaded");
    let length = context.sequence_length(0)?;
    if length < context.n_ctx() {
        context.eval(&Batch::of(&[1]), None)?;
    }
    context.trim(0, kept(length))
}

pub fn seeds() -> Vec<Vec<u8>> {
    seeds_of(ATTENTION)
}

pub fn states_seeds() -> Vec<Vec<u8>> {
    seeds_of(STATES)
}

fn seeds_of(model: &str) -> Vec<Vec<u8>> {
    let seed = |n_tokens: i32| {
        let mut context = new_context(model);
        let tokens: Vec<i32> = (0..n_tokens).map(|at| at % 100).collect();
        if n_tokens > 0 {
            context.eval(&Batch::of(&tokens), None).expect("a prompt");
        }
        state(&mut context)
    };
    [0, 1, 5].map(seed).into()
}

/// The header of a prompt cache of mlx-lm, and its data.
pub fn run_imported(input: &[u8]) -> Result<()> {
    let [header, data] = parts(input);
    let length = (header.len() as u64).to_le_bytes();
    let folder = Folder::new().with("cache.safetensors", &[&length, header, data].concat());
    let mut context = context(ATTENTION);
    let before = state(&mut context);
    let tokens: Vec<i32> = (0..IMPORTED_TOKENS).collect();
    let imported = context.import_mlx(0, &folder.file("cache.safetensors"), Some(&tokens));
    if let Err(error) = imported {
        assert!(state(&mut context) == before, "refused, but changed");
        return Err(error);
    }
    context.eval(&Batch::of(&[1]), None)?;
    context.trim(0, 2)
}

pub fn imported_seeds() -> Vec<Vec<u8>> {
    let folder = Folder::new();
    let file = folder.file("cache.safetensors");
    let mut context = new_context(ATTENTION);
    let tokens: Vec<i32> = (0..IMPORTED_TOKENS).collect();
    context.eval(&Batch::of(&tokens), None).expect("a prompt");
    context.export_mlx(0, &file).expect("exported");
    let header = header_of(&file);
    let data = &read(&file)[8 + header.len()..];
    vec![join(&[&header, data]), join(&[&header, data, b"ignored"])]
}

fn state(context: &mut Context) -> Vec<u8> {
    let mut state = vec![0; context.saved_bytes(0).expect("a size")];
    context.save_to(0, &mut state).expect("saved");
    state
}

/// The parts and their order are those of `kv/saved`.
fn with_checksums(input: &[u8], bytes_per_token: usize) -> Vec<u8> {
    let mut saved = input.to_vec();
    let Some(length) = number(&saved, LENGTH_AT) else {
        return saved;
    };
    let n_tokens = number(&saved, N_TOKENS_AT).unwrap_or(0);
    let n_floats = number(&saved, N_FLOATS_AT).unwrap_or(0);
    let mut at = 0;
    let mut part = |index: usize, n_bytes: usize| {
        let end = at + n_bytes;
        let Some(content) = saved.get(at..end) else {
            return false;
        };
        let checksum = XxHash3_64::oneshot_with_seed(index as u64, content).to_le_bytes();
        at = end + CHECKSUM_BYTES;
        let place = saved.get_mut(end..at);
        place
            .map(|place| place.copy_from_slice(&checksum))
            .is_some()
    };
    let mut rest = n_tokens;
    let mut complete = part(0, length) && part(1, n_tokens * size_of::<i32>());
    if n_floats > 0 {
        complete = complete && part(2, n_floats * size_of::<f32>());
    }
    let mut index = 3;
    while complete && rest > 0 {
        let n = rest.min(CHUNK_TOKENS);
        complete = part(index, n * bytes_per_token);
        rest -= n;
        index += 1;
    }
    saved
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
}
