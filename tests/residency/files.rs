//! Files that change while their model is open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use umrt::checkpoint::LoadMode;
use umrt::error::Status;
use umrt::runtime::{Batch, Context, ContextOptions, Finding, Residency, diagnose};

use super::common::process::isolated;
use super::common::random_model::RandomModel;
use super::common::{assert_fails, assert_identical, context, eval, open};
use super::{open_as, set};

/// Longer than the time between two looks at the files.
const A_WHILE: Duration = Duration::from_millis(300);

fn weights(directory: &Path) -> PathBuf {
    directory.join("model.safetensors")
}

fn shorten(path: &Path) {
    let file = File::options().write(true).open(path).expect("weights");
    file.set_len(file.metadata().expect("length").len() / 2)
        .expect("shortened");
}

#[test]
fn a_shortened_file_is_a_status_everywhere() {
    isolated("files::a_shortened_file_is_a_status_everywhere", || {
        let directory = RandomModel::default().write();
        let model = open(directory.path());
        let mut context = context(&model);
        eval(&mut context, &[1]);
        shorten(&weights(directory.path()));
        sleep(A_WHILE);
        let parts = ["shortened", "open it again"];
        assert_fails(context.eval(&Batch::of(&[2]), None), Status::Io, &parts);
        assert_fails(set(&model, Residency::Warm), Status::Io, &parts);
        let another = Context::new(&model, &ContextOptions::default());
        assert_fails(another, Status::Io, &parts);
        let found = diagnose(None).expect("a diagnosis").findings;
        assert_eq!(found.first(), Some(&Finding::FileChanged));
        assert_eq!(context.sequence_length(0).expect("a sequence"), 1);
    });
}

#[test]
fn a_file_that_was_written_to_is_a_status() {
    let directory = RandomModel::default().write();
    let model = open(directory.path());
    let mut context = context(&model);
    sleep(A_WHILE);
    let path = weights(directory.path());
    let content = std::fs::read(&path).expect("weights");
    std::fs::write(&path, content).expect("weights");
    assert_fails(
        context.eval(&Batch::of(&[2]), None),
        Status::Io,
        &["written to"],
    );
}

#[test]
fn a_replaced_file_keeps_the_old_weights() {
    let (directory, other) = (
        RandomModel::default().write(),
        RandomModel::default().write(),
    );
    let model = open(directory.path());
    let expected = eval(&mut context(&model), &[1, 2, 3]);
    std::fs::rename(weights(other.path()), weights(directory.path())).expect("replaced");
    sleep(A_WHILE);
    assert_identical(&eval(&mut context(&model), &[1, 2, 3]), &expected);
    set(&model, Residency::Warm).expect("the old file's pages");
}

#[test]
fn weights_that_were_read_do_not_care_for_their_file() {
    let directory = RandomModel::default().write();
    let model = open_as(directory.path(), LoadMode::Read);
    let expected = eval(&mut context(&model), &[1, 2, 3]);
    shorten(&weights(directory.path()));
    sleep(A_WHILE);
    assert_identical(&eval(&mut context(&model), &[1, 2, 3]), &expected);
    set(&model, Residency::Warm).expect("weights");
}
