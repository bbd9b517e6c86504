//! The mapped weights.

use umrt::error::Status;

use super::{Model, assert_fails, entry, raw_model};

#[test]
fn nothing_but_the_header_of_a_huge_file_is_read() {
    let header = format!(
        r#"{{"a": {}}}"#,
        entry("U8", "[1024, 1048576, 1024]", "[0, 1099511627776]")
    );
    let model = raw_model(&header, 0);
    let path = model.path().join("model.safetensors");
    let length = std::fs::metadata(&path).unwrap().len() + (1 << 40);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    // A terabyte of hole; some file systems don't allow it.
    if file.set_len(length).is_err() {
        return;
    }
    let checkpoint = model.open().unwrap();
    let tensor = checkpoint.required("a").unwrap();
    assert_eq!(checkpoint.tensor_bytes(tensor)[1 << 39], 0);
    assert_eq!(checkpoint.tensor_bytes_total(), 1 << 40);
}

#[test]
fn a_file_that_changes_between_inspection_and_mapping_is_refused() {
    let model = Model::new().with_tensors("model.safetensors", &["a"]);
    let manifest = model.inspect().unwrap();
    manifest.clone().map().unwrap();
    let checkpoint = model.open().unwrap();
    assert!(!checkpoint.changed_on_disk());
    let model = model.with_tensors("model.safetensors", &["b"]);
    assert_fails(
        manifest.map(),
        Status::Format,
        "changed while the model was being opened",
    );
    assert!(checkpoint.changed_on_disk());
    assert_eq!(
        checkpoint.tensor_bytes(checkpoint.tensor("a").unwrap()),
        [1, 2, 3]
    );
    drop(model);
}

#[test]
fn the_residency_of_a_checkpoint_counts_all_its_files() {
    let model = Model::new()
        .with_tensors("a.safetensors", &["a"])
        .with_tensors("b.safetensors", &["b"]);
    let checkpoint = model.open().unwrap();
    for tensor in checkpoint.tensors() {
        assert_eq!(checkpoint.tensor_bytes(tensor), [1, 2, 3]);
    }
    let lengths = checkpoint
        .files()
        .iter()
        .map(|file| file.stamp.bytes as usize);
    assert_eq!(checkpoint.residency().unwrap(), lengths.sum::<usize>());
}

#[cfg(target_os = "linux")]
#[test]
fn no_file_descriptor_stays_open() {
    let model = Model::new()
        .with_tensors("a.safetensors", &["a"])
        .with_tensors("b.safetensors", &["b"]);
    let open_files = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets
            .filter(|target| target.starts_with(model.path()))
            .collect::<Vec<std::path::PathBuf>>()
    };
    let held = std::fs::File::open(model.path().join("config.json")).unwrap();
    assert_eq!(open_files().len(), 1, "the check itself works");
    drop(held);
    let checkpoint = model.open().unwrap();
    assert_eq!(open_files(), Vec::<std::path::PathBuf>::new());
    drop(checkpoint);
}

#[test]
fn the_identity_follows_the_model_and_not_its_place() {
    let tensors = |names| Model::new().with_tensors("model.safetensors", names);
    let identity = |model: &Model| model.inspect().unwrap().identity();
    let first = identity(&tensors(&["a"]));
    assert_eq!(identity(&tensors(&["a"])), first);
    assert_ne!(identity(&tensors(&["b"])), first);
    assert_ne!(identity(&tensors(&["a"]).with("config.json", "{ }")), first);
    let mut longer = std::fs::read(tensors(&["a"]).path().join("model.safetensors")).unwrap();
    longer.push(0);
    assert_ne!(
        identity(&Model::new().with("model.safetensors", longer)),
        first
    );
}
