//! Which directories are models, and which files in them count.

use std::os::unix::fs::symlink;

use umrt::checkpoint::Checkpoint;
use umrt::error::Status;

use super::{INDEX, Model, assert_fails};

#[test]
fn the_directory_may_be_named_by_a_file_in_it() {
    let model = Model::new().with_tensors("model.safetensors", &["a"]);
    for name in ["", "config.json", "model.safetensors"] {
        let checkpoint = Checkpoint::open(&model.path().join(name)).unwrap();
        assert_eq!(checkpoint.directory().root(), model.path());
        assert_eq!(checkpoint.tensors().len(), 1);
    }
}

#[test]
fn what_is_not_a_model_directory_says_so() {
    let model = Model::empty().with_tensors("model.safetensors", &["a"]);
    assert_fails(
        model.open(),
        Status::NotFound,
        "is not a model directory: it has no config.json",
    );
    assert_fails(
        Checkpoint::open(&model.path().join("nothing")),
        Status::NotFound,
        "No such file",
    );
    assert_fails(
        Checkpoint::open(Model::empty().with("snapshots/1/config.json", "{}").path()),
        Status::NotFound,
        "Hugging Face cache",
    );
    let model = Model::new().with("notes.txt", "");
    assert_fails(
        Checkpoint::open(&model.path().join("notes.txt")),
        Status::InvalidArgument,
        "notes.txt is not a model directory",
    );
    assert_fails(model.open(), Status::NotFound, "has no safetensors files");
}

#[test]
fn a_gguf_file_is_read_where_there_are_no_safetensors() {
    let gguf = Model::empty().with("tiny.Q4_K.gguf", "GGUF");
    assert_fails(gguf.open(), Status::Format, "tiny.Q4_K.gguf");
    let file = gguf.path().join("tiny.Q4_K.gguf");
    assert_fails(Checkpoint::open(&file), Status::Format, "truncated");
    let beside_config = Model::new().with("tiny.gguf", "GGUF");
    assert_fails(beside_config.open(), Status::Format, "tiny.gguf");
}

#[test]
fn other_weight_formats_are_unsupported_by_name() {
    let pickle = Model::new()
        .with("training_args.bin", "")
        .with("pytorch_model.bin", "");
    assert_fails(
        pickle.open(),
        Status::Unsupported,
        "pytorch_model.bin is a PyTorch checkpoint, which is not read because it may contain code; \
         convert to safetensors",
    );
    assert_fails(
        Model::new().with("weights.npz", "").open(),
        Status::Unsupported,
        "NumPy",
    );
}

#[test]
fn without_an_index_all_weight_files_are_read_in_the_order_of_their_names() {
    let model = Model::new()
        .with_tensors("b.safetensors", &["second"])
        .with_tensors("a.safetensors", &["first"])
        .with_tensors("adapters.safetensors", &["lora"])
        .with("._a.safetensors", "what macOS leaves on foreign disks");
    let manifest = model.inspect().unwrap();
    let names: Vec<_> = manifest
        .tensors()
        .iter()
        .map(|t| (t.name.as_str(), t.file))
        .collect();
    assert_eq!(names, [("first", 0), ("second", 1)]);

    let model = model.with_tensors("model-extra.safetensors", &["only"]);
    assert_eq!(model.inspect().unwrap().tensors()[0].name, "only");
}

#[test]
fn a_name_in_two_shards_is_refused() {
    let model = Model::new()
        .with_tensors("a.safetensors", &["x"])
        .with_tensors("b.safetensors", &["x"]);
    assert_fails(
        model.open(),
        Status::Format,
        "tensor \"x\" is both in a.safetensors and in b.safetensors",
    );
}

fn index(weight_map: &str) -> String {
    format!(r#"{{"metadata": {{"total_size": 6}}, "weight_map": {weight_map}}}"#)
}

#[test]
fn shards_are_found_through_the_index() {
    let model = Model::new()
        .with(
            INDEX,
            index(r#"{"b": "part-2.safetensors", "a": "sub/part-1.safetensors"}"#),
        )
        .with("sub/.keep", "")
        .with_tensors("sub/part-1.safetensors", &["a"])
        .with_tensors("part-2.safetensors", &["b"])
        .with_tensors("unrelated.safetensors", &["a", "b", "c"]);
    for path in [model.path().to_owned(), model.path().join(INDEX)] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.files().len(), 2);
        assert_eq!(checkpoint.tensors().len(), 2);
        for name in ["a", "b"] {
            let tensor = checkpoint.required(name).unwrap();
            assert_eq!(checkpoint.tensor_bytes(tensor), [1, 2, 3]);
        }
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let model = |weight_map: &str| {
        let model = Model::new().with_tensors("a.safetensors", &["a"]);
        model
            .with_tensors("b.safetensors", &["b"])
            .with(INDEX, index(weight_map))
            .open()
    };
    assert_fails(
        model(r#"{"a": "c.safetensors"}"#),
        Status::NotFound,
        "names c.safetensors, which is missing from",
    );
    assert_fails(
        model(r#"{"a": "b.safetensors", "b": "b.safetensors"}"#),
        Status::Format,
        "tensor \"a\" should be in b.safetensors, but is not",
    );
    for escape in [
        "../a.safetensors",
        "/etc/passwd",
        "",
        ".",
        "x/../../a",
        "..\\\\a",
        "a\\u0000",
    ] {
        assert_fails(
            model(&format!(r#"{{"a": "{escape}"}}"#)),
            Status::Format,
            "which is not a file inside of the directory",
        );
    }
    assert_fails(model("{}"), Status::Format, "names no files");
    assert_fails(
        model("[1]"),
        Status::Format,
        "model.safetensors.index.json: is malformed",
    );
    assert_fails(model(r#"{"a": 1}"#), Status::Format, "expected a string");
}

#[test]
fn the_links_of_the_hub_cache_are_followed() {
    let model = Model::empty()
        .with("blobs/c0ffee", r#"{"model_type": "tiny"}"#)
        .with("snapshots/main/.keep", "")
        .with_tensors("blobs/beef", &["a"]);
    let snapshot = model.path().join("snapshots/main");
    symlink("../../blobs/c0ffee", snapshot.join("config.json")).unwrap();
    symlink("../../blobs/beef", snapshot.join("model.safetensors")).unwrap();
    for name in ["", "config.json", "model.safetensors"] {
        let checkpoint = Checkpoint::open(&snapshot.join(name)).unwrap();
        assert_eq!(checkpoint.config().str("model_type").unwrap(), "tiny");
        assert_eq!(
            checkpoint.tensor_bytes(checkpoint.required("a").unwrap()),
            [1, 2, 3]
        );
    }
    std::fs::remove_file(model.path().join("blobs/beef")).unwrap();
    assert_fails(
        Checkpoint::open(&snapshot),
        Status::NotFound,
        "model.safetensors: No such file",
    );
}
