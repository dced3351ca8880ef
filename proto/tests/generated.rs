//! The committed code is what the `.proto` files say.

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_reflect::prost::Message as _;

/// Fields of many bytes: they are `bytes::Bytes`, which are handed on without a copy.
const BULK: [&str; 5] = [
    ".holdfast.v1.UploadPackRequest.data",
    ".holdfast.v1.ReadPackResponse.data",
    ".holdfast.v1.ReadFileResponse.data",
    ".holdfast.v1.OpenRestoreResponse.snapshot_object",
    ".holdfast.v1.CommitSnapshotRequest.body",
];

fn proto_files(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root.join("holdfast/v1"))
        .expect("proto folder")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "proto"))
        .collect();
    files.sort();
    files
}

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(proto_files(root), [root]).expect("proto files compile");
    let out = tempfile::tempdir().expect("temporary folder");
    BULK.iter()
        .fold(tonic_prost_build::configure(), tonic_prost_build::Builder::bytes)
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())
        .expect("code is generated");

    let code = fs::read(out.path().join("holdfast.v1.rs")).expect("one package");
    let fresh = [("v1.rs", code), ("descriptor.bin", descriptors.encode_to_vec())];
    let stale: Vec<&str> = fresh
        .iter()
        .filter(|(name, bytes)| fs::read(root.join("src").join(name)).ok().as_ref() != Some(bytes))
        .map(|(name, _)| *name)
        .collect();
    if env::var_os("HOLDFAST_REGENERATE").is_some() {
        for (name, bytes) in &fresh {
            fs::write(root.join("src").join(name), bytes).expect("written");
        }
        return;
    }
    assert!(
        stale.is_empty(),
        "{stale:?} differ from the .proto files; run HOLDFAST_REGENERATE=1 cargo test -p holdfast-proto"
    );
}
