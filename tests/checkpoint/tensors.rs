//! What the headers of weight files may say.

use umrt::checkpoint::{Dtype, NewTensor, write_safetensors};
use umrt::error::Status;

use super::{Model, assert_fails, entry, raw, raw_model};

#[test]
fn a_tensor_that_is_not_there_is_named_with_what_is() {
    let model =
        Model::new().with_tensors("model.safetensors", &["language_model.model.norm.weight"]);
    let manifest = model.inspect().unwrap();
    assert_fails(
        manifest.required("model.norm.weight"),
        Status::Format,
        "model.safetensors; there is \"language_model.model.norm.weight\", did you mean that?",
    );
    assert_fails(
        manifest.required("lm_head.weight"),
        Status::Format,
        "no tensor \"lm_head.weight\" in ",
    );
    let model = Model::new()
        .with_tensors("a.safetensors", &["a"])
        .with_tensors("b.safetensors", &["b"]);
    assert_fails(
        model.inspect().unwrap().required("c"),
        Status::Format,
        "in the 2 files a.safetensors to b.safetensors of ",
    );
}

#[test]
fn what_the_writer_aligns_is_read_back_without_its_padding() {
    let model = Model::new();
    let bytes: Vec<u8> = (0..=255).collect();
    let tensor = |name, shape, bytes| NewTensor {
        name,
        dtype: Dtype::BF16,
        shape,
        bytes,
    };
    let tensors = [
        tensor("odd", &[3, 1], &bytes[..6]),
        tensor("whole", &[2, 64], &bytes),
        tensor("empty", &[0], &[]),
        tensor("scalar", &[], &bytes[..2]),
    ];
    let path = model.path().join("model.safetensors");
    write_safetensors(&path, &tensors, &[("format", "mlx")]).unwrap();
    let checkpoint = model.open().unwrap();
    assert_eq!(checkpoint.tensors().len(), 4);
    assert_eq!(checkpoint.tensor_bytes_total(), 264);
    assert_eq!(checkpoint.files()[0].metadata["format"], "mlx");
    assert_eq!(checkpoint.files()[0].header_bytes % 64, 0);
    for written in tensors {
        let read = checkpoint.required(written.name).unwrap();
        assert_eq!(
            (read.dtype, read.shape.as_slice()),
            (Dtype::BF16, written.shape)
        );
        assert!(read.is_aligned_to(64));
        let bytes = checkpoint.tensor_bytes(read);
        assert_eq!(bytes, written.bytes);
        assert_eq!(bytes.as_ptr() as usize % 64, 0);
    }
}

#[test]
fn gaps_trailing_bytes_and_odd_offsets_are_tolerated() {
    let model = raw_model(
        r#"{"__metadata__": null, "b": {"dtype": "U16", "shape": [2], "data_offsets": [9, 13]},
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}    "#,
        20,
    );
    let checkpoint = model.open().unwrap();
    let bytes = |name| checkpoint.tensor_bytes(checkpoint.tensor(name).unwrap());
    assert_eq!(bytes("a"), [0, 1, 2]);
    assert_eq!(bytes("b"), [9, 10, 11, 12]);
}

#[test]
fn malformed_headers_are_refused_with_a_reason() {
    let long = "n".repeat(4097);
    let u8s = |offsets| entry("U8", "[4]", offsets);
    for (entries, reason) in [
        (
            format!(r#""a": {}, "a": {}"#, u8s("[0, 4]"), u8s("[4, 8]")),
            "\"a\" comes twice",
        ),
        (
            r#""__metadata__": {}, "__metadata__": {}"#.to_owned(),
            "\"__metadata__\" comes twice",
        ),
        (
            format!(r#""a": {}, "b": {}"#, u8s("[0, 4]"), u8s("[3, 7]")),
            "tensors \"a\" and \"b\" overlap",
        ),
        (
            format!(r#""a": {}"#, u8s("[4, 0]")),
            "tensor \"a\": data_offsets are [4, 0], but U8 [4] takes 4 bytes",
        ),
        (
            format!(r#""a": {}"#, u8s("[0, 5]")),
            "[0, 5], but U8 [4] takes 4 bytes",
        ),
        (
            format!(r#""a": {}"#, u8s("[0]")),
            "malformed header: invalid length 1",
        ),
        (
            format!(r#""a": {}"#, u8s("[-4, 0]")),
            "invalid value: integer `-4`",
        ),
        (
            format!(
                r#""a": {}"#,
                u8s("[18446744073709551611, 18446744073709551615]")
            ),
            "overflow",
        ),
        (
            format!(r#""a": {}"#, entry("U8", "[-4]", "[0, 4]")),
            "invalid value: integer `-4`",
        ),
        (
            format!(
                r#""a": {}"#,
                entry("F64", "[2147483647, 2147483647, 2147483647]", "[0, 8]")
            ),
            "overflows",
        ),
        (
            format!(r#""a": {}"#, entry("Q4", "[4]", "[0, 4]")),
            "unknown variant `Q4`",
        ),
        (
            r#""a": {"dtype": "U8", "shape": [4]}"#.to_owned(),
            "missing field `data_offsets`",
        ),
        (r#""a": 3"#.to_owned(), "malformed header"),
        (
            format!(r#""{long}": {}"#, u8s("[0, 4]")),
            "4097 bytes long, and the limit is 4096",
        ),
        (
            r#""__metadata__": {"a": 1}"#.to_owned(),
            "expected a string",
        ),
    ] {
        let model = raw_model(&format!("{{{entries}}}"), 16);
        assert_fails(model.open(), Status::Format, reason);
        assert_fails(model.open(), Status::Format, "model.safetensors: ");
    }
}

#[test]
fn tensors_that_mlx_cannot_hold_are_unsupported() {
    for (entry, reason) in [
        (
            entry("F4", "[8]", "[0, 4]"),
            "tensor \"a\": cannot read elements of type F4",
        ),
        (
            entry("U8", "[2147483648]", "[0, 2147483648]"),
            "the limit of a dimension is 2147483647",
        ),
        (
            entry("U8", "[1,1,1,1,1,1,1,1,1]", "[0, 1]"),
            "has 9 dimensions; the limit is 8",
        ),
    ] {
        let model = raw_model(&format!(r#"{{"a": {entry}}}"#), 16);
        assert_fails(model.open(), Status::Unsupported, reason);
    }
}

#[test]
fn files_that_are_not_safetensors_are_refused_with_a_reason() {
    let open = |content: &[u8]| Model::new().with("model.safetensors", content).open();
    assert_fails(
        open(b""),
        Status::Format,
        "is truncated: header says 8 bytes, the file has 0",
    );
    assert_fails(
        open(&[200, 0, 0, 0, 0, 0, 0, 0, b'{']),
        Status::Format,
        "header says 208 bytes, the file has 9",
    );
    assert_fails(open(&[0; 8]), Status::Format, "malformed header: EOF");
    assert_fails(
        open(&[0xff; 100]),
        Status::Format,
        "is not a safetensors file",
    );
    assert_fails(
        open(b"version https://git-lfs.github.com/spec/v1"),
        Status::Format,
        "Git LFS pointer",
    );
    for json in ["", "[]", "{", "{}x", "\u{0}", "{\"a\": [[[[", "null"] {
        assert_fails(open(&raw(json, 0)), Status::Format, "malformed header");
    }
    let mut invalid = raw("{'aa'}", 0);
    invalid[10] = 0xff;
    assert_fails(open(&invalid), Status::Format, "malformed header");
    let model = Model::new().with("model.safetensors/not-a-file", "");
    assert_fails(model.open(), Status::Format, "is not a regular file");
}

#[test]
fn a_truncated_file_says_how_long_it_should_be() {
    let header = format!(r#"{{"a": {}}}"#, entry("U8", "[4]", "[96, 100]"));
    let needed = 8 + header.len() + 100;
    assert!(raw_model(&header, 100).open().is_ok());
    assert_fails(
        raw_model(&header, 99).open(),
        Status::Format,
        &format!(
            "is truncated: header says {needed} bytes, the file has {}",
            needed - 1
        ),
    );
}
