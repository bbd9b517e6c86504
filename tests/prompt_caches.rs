//! mlx-lm's prompt caches, from files that it wrote and into files that it reads.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions};

use common::{
    Random, assert_fails, assert_identical, context_of, eval, fixture, open_with,
    relative_difference,
};

fn file(name: &str) -> PathBuf {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join("prompt-caches").join(name)
}

/// Those that the fixtures are of.
fn tokens() -> Vec<i32> {
    (0..41).map(|index| (7 * index + 3) % 96).collect()
}

const Q8_G32: KvType = KvType::Quantized {
    bits: 8,
    group_size: 32,
};

fn of(model: &str, kv_type: KvType, cpu_ops: CpuOps) -> Context {
    let options = ContextOptions {
        n_ctx: 100,
        kv_type,
        ..ContextOptions::default()
    };
    context_of(&open_with(&fixture(model), cpu_ops), options)
}

const BOTH: [CpuOps; 2] = [CpuOps::Kernels, CpuOps::Stock];

/// How mlx-lm goes on behind token 5.
fn greedy(name: &str) -> Vec<i32> {
    let text = fs::read_to_string(file("greedy.json")).expect("a fixture");
    let all: BTreeMap<String, Vec<i32>> = serde_json::from_str(&text).expect("lists of tokens");
    all[name].clone()
}

fn largest(logits: &[f32]) -> i32 {
    let mut ids = 0..logits.len();
    let first = ids.next().expect("logits");
    ids.fold(
        first,
        |best, id| {
            if logits[id] > logits[best] { id } else { best }
        },
    ) as i32
}

/// The tokens behind token 5 when the best logit always wins.
fn go_on(context: &mut Context, n: usize) -> Vec<i32> {
    let mut token = 5;
    let mut next = || {
        token = largest(&eval(context, &[token]));
        token
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn a_text_goes_on_from_what_mlx_lm_saved_as_mlx_lm_goes_on() {
    for cpu_ops in BOTH {
        for (model, kv_type, name) in [
            ("llama3-f32", KvType::F32, "floats"),
            ("gemma-f32", Q8_G32, "quantized"),
        ] {
            let expected = greedy(name);
            for name in [name.to_owned(), format!("{name}-before")] {
                let mut context = of(model, kv_type, cpu_ops);
                let path = file(&format!("{name}.safetensors"));
                context
                    .import_mlx(0, &path, Some(&tokens()))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(context.sequence_tokens(0).expect("tokens"), tokens());
                let found = go_on(&mut context, expected.len());
                assert_eq!(found, expected, "{name} {cpu_ops:?}");
            }
        }
    }
}

#[test]
fn keys_and_values_of_mlx_lm_are_ours() {
    for cpu_ops in BOTH {
        let mut own = of("llama3-f32", KvType::F32, cpu_ops);
        eval(&mut own, &tokens());
        let mut context = of("llama3-f32", KvType::F32, cpu_ops);
        let path = file("floats.safetensors");
        context
            .import_mlx(0, &path, Some(&tokens()))
            .expect("imported");
        let difference = relative_difference(&eval(&mut context, &[5]), &eval(&mut own, &[5]));
        assert!(difference <= 1e-5, "{cpu_ops:?}: {difference:.1e}");
    }
}

#[test]
fn what_is_exported_is_loaded_with_its_tokens_and_bits() {
    // What `prompt_cache_fixture.py --check` asks mlx-lm to go on from.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("umrt-prompt-cache.safetensors");
    for cpu_ops in BOTH {
        for (model, kv_type) in [
            ("gemma-f32", Q8_G32),
            ("llama3-f32", KvType::Bf16),
            ("llama3-f32", KvType::F32),
        ] {
            let mut first = of(model, kv_type, cpu_ops);
            eval(&mut first, &tokens());
            first.export_mlx(0, &path).expect("exported");
            let mut second = of(model, kv_type, cpu_ops);
            second.load(0, &path).expect("loaded");
            assert_eq!(second.sequence_tokens(0).expect("tokens"), tokens());
            assert_identical(&eval(&mut second, &[5]), &eval(&mut first, &[5]));
        }
    }
}

/// Each tensor's type, shape without room for more tokens, and bytes of the tokens there.
type Contents = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn contents(bytes: &[u8], n_tokens: usize) -> Contents {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        let mut shape = view.shape().to_vec();
        let mut data = view.data().to_vec();
        if let &[batch, n_heads, capacity, _] = view.shape() {
            let row_bytes = data.len() / (batch * n_heads * capacity);
            let heads = data.chunks_exact(capacity * row_bytes);
            data = heads
                .flat_map(|head| head[..n_tokens * row_bytes].to_vec())
                .collect();
            shape[2] = n_tokens;
        }
        (name.to_owned(), (view.dtype(), shape, data))
    };
    file.iter().map(tensor).collect()
}

fn metadata(bytes: &[u8]) -> BTreeMap<String, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).expect("a header");
    let metadata = header.metadata().clone().expect("metadata").into_iter();
    // What the caller adds.
    metadata.filter(|(key, _)| !key.starts_with("0.")).collect()
}

#[test]
fn a_file_that_is_imported_and_exported_has_the_same_contents() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cache.safetensors");
    for cpu_ops in BOTH {
        for (model, kv_type, name) in [
            ("llama3-f32", KvType::F32, "floats.safetensors"),
            ("gemma-f32", Q8_G32, "quantized.safetensors"),
        ] {
            let mut context = of(model, kv_type, cpu_ops);
            context
                .import_mlx(0, &file(name), Some(&tokens()))
                .expect("imported");
            context.export_mlx(0, &path).expect("exported");
            let [theirs, ours] = [&file(name), &path].map(|path| fs::read(path).expect("a file"));
            let n = tokens().len();
            assert_eq!(contents(&ours, n), contents(&theirs, n), "{name}");
            assert_eq!(metadata(&ours), metadata(&theirs), "{name}");
        }
    }
}

#[test]
fn what_does_not_belong_here_is_refused_and_changes_nothing() {
    let mut context = of("llama3-f32", KvType::F32, CpuOps::Kernels);
    eval(&mut context, &[1, 2]);
    let (floats, all) = (file("floats.safetensors"), tokens());
    let unknown = [&all[..40], &[1000]].concat();
    let weights = fixture("llama3-f32").join("model.safetensors");
    #[rustfmt::skip]
    let cases = [
        (&floats, None, Status::InvalidArgument, "umrt_seq_import_mlx"),
        (&floats, Some(&all[1..]), Status::InvalidArgument, "41 tokens"),
        (&floats, Some(&unknown[..]), Status::Format, "token 1000"),
        (&file("rotating.safetensors"), Some(&all[..]), Status::Unsupported, "RotatingKVCache"),
        (&file("quantized.safetensors"), Some(&all[..]), Status::InvalidArgument, "same model"),
        (&weights, None, Status::Format, "no prompt cache"),
        (&file("nothing.safetensors"), None, Status::NotFound, "nothing.safetensors"),
    ];
    for (path, named, status, part) in cases {
        assert_fails(context.import_mlx(0, path, named), status, &[part]);
        assert_eq!(context.sequence_tokens(0).expect("tokens"), [1, 2]);
    }
    let mut rounded = of("llama3-f32", KvType::Bf16, CpuOps::Kernels);
    let result = rounded.import_mlx(0, &floats, Some(&all));
    assert_fails(result, Status::InvalidArgument, &["has F32", "kv_type"]);
    let options = ContextOptions {
        n_ctx: 40,
        ..ContextOptions::default()
    };
    let model = open_with(&fixture("llama3-f32"), CpuOps::Kernels);
    let result = context_of(&model, options).import_mlx(0, &floats, Some(&all));
    assert_fails(result, Status::NoSpace, &["41 tokens"]);
}

#[test]
fn latent_attention_says_what_to_do_instead() {
    let mut context = of("deepseek-v3-f32", KvType::Computed, CpuOps::Kernels);
    let path = file("floats.safetensors");
    for result in [
        context.export_mlx(0, &path),
        context.import_mlx(0, &path, Some(&tokens())),
    ] {
        assert_fails(result, Status::Unsupported, &["latent", "umrt_seq_save"]);
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cut.safetensors");
    let mut random = Random(3);
    for name in ["floats-before.safetensors", "quantized.safetensors"] {
        let whole = fs::read(file(name)).expect("a fixture");
        let model = if name.starts_with("floats") {
            "llama3-f32"
        } else {
            "gemma-f32"
        };
        let mut context = of(model, KvType::F32, CpuOps::Kernels);
        eval(&mut context, &[1, 2]);
        let random_lengths = (0..20).map(|_| random.next() as usize % whole.len());
        for length in [0, 7, 8, 9, whole.len() - 1]
            .into_iter()
            .chain(random_lengths)
        {
            fs::write(&path, &whole[..length]).expect("a file");
            let result = context.import_mlx(0, &path, Some(&tokens()));
            assert_fails(result, Status::Format, &["cut.safetensors"]);
            assert_eq!(context.sequence_tokens(0).expect("tokens"), [1, 2]);
        }
    }
}

/// A header whose JSON is changed, with the data behind it.
fn with_header(whole: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let (length, rest) = whole.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
    let (header, data) = rest.split_at(length);
    let header = change(std::str::from_utf8(header).expect("text"));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("odd.safetensors");
    let whole = fs::read(file("floats.safetensors")).expect("a fixture");
    let mut context = of("llama3-f32", KvType::F32, CpuOps::Kernels);
    #[rustfmt::skip]
    let cases = [
        ("\"1.1\":\"KVCache\"", "\"1.1\":\"MambaCache\"", Status::Unsupported, "MambaCache"),
        ("\"1.1\":\"KVCache\"", "\"1.1\":\"QuantizedKVCache\"", Status::Unsupported, "one kind"),
        ("\"1.1\":\"KVCache\"", "\"1.7\":\"KVCache\"", Status::InvalidArgument, "1 layers"),
        ("\"1.2\":{", "\"1.9\":{", Status::Format, "tensor 1.2"),
        ("\"dtype\":\"I32\"", "\"dtype\":\"F32\"", Status::Format, "no number"),
        ("[1,2,256,16]", "[2,1,256,16]", Status::Unsupported, "2 sequences"),
        ("[1,2,256,16]", "[1,256,2,16]", Status::Format, "less than the 41 tokens"),
        ("[1,2,256,16]", "[1,4,128,16]", Status::InvalidArgument, "same model"),
    ];
    for (from, to, status, part) in cases {
        let bytes = with_header(&whole, |header| header.replace(from, to));
        assert!(bytes != whole, "{from} is in the header");
        fs::write(&path, bytes).expect("a file");
        let result = context.import_mlx(0, &path, Some(&tokens()));
        assert_fails(result, status, &[part]);
    }
}
