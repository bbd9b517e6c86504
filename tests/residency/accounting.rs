//! The ledger against the operating system.

use umrt::checkpoint::{Dtype, LoadMode};
use umrt::error::Status;
use umrt::runtime::{
    Batch, ContextOptions, Finding, Model, ModelOptions, TrimSteps, Want, diagnose, trim,
};
use umrt::text::{Tokenizer, TokenizerConfig};

use super::common::process::{anonymous_bytes, isolated};
use super::common::random_model::RandomModel;
use super::common::{assert_fails, context, context_of, eval, open, open_fixture, token_ids};
use super::{MIB, assert_within, file_bytes, large, open_as, stats};

/// Starts all threads, and leaves nothing else behind.
fn use_once() {
    let mut context = context(&open_fixture("llama3-f32"));
    eval(&mut context, &token_ids(1, 40, 128));
    drop(context);
    give_back();
}

fn give_back() {
    let steps = TrimSteps {
        mlx_cache: true,
        ..TrimSteps::default()
    };
    trim(steps).expect("a trim");
}

#[test]
fn the_total_is_what_private_memory_grew_by() {
    isolated(
        "accounting::the_total_is_what_private_memory_grew_by",
        || {
            const LAST: u64 = 5;
            use_once();
            let wide = RandomModel {
                hidden_size: 256,
                n_layers: 4,
                n_heads: 8,
                n_kv_heads: 8,
                head_dim: 256,
                vocab_size: 4096,
                dtype: Dtype::F32,
                ..RandomModel::default()
            };
            let directory = wide.write();
            give_back();
            let before = (anonymous_bytes(), stats().total());
            let scratch_before = stats().scratch();
            let model = open(directory.path());
            let options = ContextOptions {
                n_ctx: 4096,
                ..ContextOptions::default()
            };
            let mut context = context_of(&model, options);
            for seed in 0..=LAST {
                let tokens = token_ids(seed, 500, wide.vocab_size);
                // Rows of logits for one prompt of them; replaced ones would stay with the C
                // library as freed memory.
                let marks = vec![1; tokens.len()];
                let batch = Batch {
                    want: match seed == LAST {
                        true => Want::Marked(&marks),
                        false => Want::Last,
                    },
                    ..Batch::of(&tokens)
                };
                context.eval(&batch, None).expect("an evaluation");
                let now = stats();
                assert_eq!(
                    now.total(),
                    now.contexts.total() + now.weights.total() + now.scratch() + now.mlx.cache
                );
                assert!(now.kv_peak >= now.contexts.kv_reserved);
            }
            give_back();
            let accounted = stats().total() - before.1;
            assert!(accounted > 100 * MIB, "{accounted}");
            let scratch = stats().scratch() - scratch_before;
            assert_eq!(context.memory().total(), accounted - scratch);
            assert_within(anonymous_bytes() - before.0, accounted, 2);

            drop(context);
            give_back();
            // Threads of MLX keep what the kernels hold for them.
            assert!(stats().total() < before.1 + 2 * MIB);
            let left = anonymous_bytes().saturating_sub(before.0);
            // But for freed logits, which the C library may keep.
            assert!(left < accounted / 10, "{left} bytes are left");
        },
    );
}

#[test]
fn weights_in_private_memory_are_in_the_total() {
    isolated(
        "accounting::weights_in_private_memory_are_in_the_total",
        || {
            use_once();
            let directory = large().write();
            for load in [LoadMode::Read, LoadMode::Direct] {
                give_back();
                let before = (anonymous_bytes(), stats().total());
                let model = match load {
                    LoadMode::Direct => match Model::open(
                        directory.path(),
                        ModelOptions {
                            load,
                            ..Default::default()
                        },
                    ) {
                        Err(error) if error.status() == Status::Unsupported => continue,
                        model => model.expect("a model"),
                    },
                    _ => open_as(directory.path(), load),
                };
                let memory = model.memory().expect("figures");
                assert_eq!(memory.weights_mapped, 0);
                assert!(memory.weights_copied.abs_diff(file_bytes(directory.path())) < 4096);
                assert_within(anonymous_bytes() - before.0, stats().total() - before.1, 2);
            }
        },
    );
}

#[test]
fn sequences_share_out_the_context() {
    let model = open_fixture("llama3-f32");
    let options = ContextOptions {
        n_sequences: 2,
        ..ContextOptions::default()
    };
    let mut context = context_of(&model, options);
    let batch = Batch {
        sequences: Some(&[0, 0, 0, 1]),
        ..Batch::of(&[1, 2, 3, 4])
    };
    context.eval(&batch, None).expect("an evaluation");
    let whole = context.memory();
    let parts = [0, 1].map(|sequence| context.sequence_memory(sequence).expect("a sequence"));
    assert_eq!(parts[0].kv_used, 3 * parts[1].kv_used);
    assert_eq!(parts[0].kv_used + parts[1].kv_used, whole.kv_used);
    assert_eq!(
        parts[0].kv_reserved + parts[1].kv_reserved,
        whole.kv_reserved
    );
    assert_fails(
        context.sequence_memory(2),
        Status::InvalidArgument,
        &["sequence 2"],
    );
    context.trim(0, 0).expect("a sequence");
    assert!(context.kv_peak() >= whole.kv_reserved);
    assert!(context.memory().kv_reserved < whole.kv_reserved);
}

/// As large as those of current models: pieces of real lengths and merges of them.
fn large_tokenizer() -> String {
    use std::fmt::Write;
    const PIECES: usize = 60_000;
    let letter = |index: usize| (b'a' + (index % 26) as u8) as char;
    let mut pieces: Vec<String> = (0..26).map(|index| letter(index).to_string()).collect();
    let mut merges = Vec::new();
    let mut left = 0;
    while pieces.len() < PIECES {
        for right in 0..26 {
            merges.push((left, right));
            pieces.push(format!("{}{}", pieces[left], pieces[right]));
        }
        left += 1;
    }
    let mut json = String::from(
        r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","vocab":{"#,
    );
    for (id, piece) in pieces.iter().enumerate() {
        let comma = if id == 0 { "" } else { "," };
        write!(json, "{comma}\"{piece}\":{id}").expect("a text");
    }
    json.push_str("},\"merges\":[");
    for (index, (left, right)) in merges.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(json, "{comma}\"{} {}\"", pieces[*left], pieces[*right]).expect("a text");
    }
    json + "]}}"
}

/// By the C library's own count.
#[cfg(target_env = "gnu")]
fn allocated_bytes() -> usize {
    // SAFETY: only reads figures.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

#[cfg(target_env = "gnu")]
#[test]
fn the_estimate_of_a_tokenizer_is_near_what_it_takes() {
    let test = "accounting::the_estimate_of_a_tokenizer_is_near_what_it_takes";
    isolated(test, || {
        let json = large_tokenizer();
        let build =
            || Tokenizer::from_bytes(json.as_bytes(), &TokenizerConfig::default()).expect("valid");
        drop(build());
        let before = allocated_bytes();
        let tokenizer = build();
        let allocated = allocated_bytes() - before;
        assert!(tokenizer.estimated_bytes() > 8 * MIB);
        assert_within(tokenizer.estimated_bytes(), allocated, 10);
    });
}

#[test]
fn a_text_model_accounts_for_its_tokenizer_once_it_is_read() {
    let model = open_fixture("llama3-chat-f16");
    assert_eq!(model.memory().expect("figures").text, 0);
    let tokenizer = model.text().tokenizer().expect("a tokenizer");
    let read = model.memory().expect("figures").text;
    assert_eq!(read, tokenizer.estimated_bytes());
    let request = r#"{"messages": [{"role": "user", "content": "Hi"}]}"#;
    model.text().render_chat(request).expect("a template");
    assert!(model.memory().expect("figures").text > read);
}

#[test]
fn a_nearly_full_context_is_found() {
    isolated("accounting::a_nearly_full_context_is_found", || {
        let model = open_fixture("llama3-f32");
        let options = ContextOptions {
            n_ctx: 20,
            ..ContextOptions::default()
        };
        let mut context = context_of(&model, options);
        eval(&mut context, &token_ids(1, 17, 128));
        let diagnosis = diagnose(Some(&context)).expect("a diagnosis");
        assert!(!diagnosis.findings.contains(&Finding::ContextNearlyFull));
        eval(&mut context, &[1]);
        let diagnosis = diagnose(Some(&context)).expect("a diagnosis");
        assert!(diagnosis.findings.contains(&Finding::ContextNearlyFull));
        assert_eq!((diagnosis.n_tokens, diagnosis.n_ctx), (18, 20));
    });
}
