//! Compiles the messages of our own API, without `protoc`.

use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 8] = [
    "proto/doorward/v1/session.proto",
    "proto/doorward/v1/tail.proto",
    "proto/doorward/v1/explain.proto",
    "proto/doorward/v1/revocation.proto",
    "proto/doorward/v1/grant.proto",
    "proto/doorward/v1/inventory.proto",
    "proto/doorward/v1/workload.proto",
    "proto/doorward/v1/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    // The messages describe themselves at run time, to become JSON.
    let folder = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&folder).join("doorward.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}
