//! Generates the Rust code of the contract. protoc comes as a crate; `python scripts/contract.py imports`, in
//! the root of the repository, copies google/type and google/rpc to .build/googleapis.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let repository = Path::new("../../..");
    let contract = repository.join("protos");
    let google = repository.join(".build/googleapis");
    let services = ["credit_service", "ingestion_service"]
        .map(|name| contract.join(format!("credit_service/v1/{name}.proto")));
    let mut config = tonic_prost_build::Config::new();
    config.protoc_executable(protoc_bin_vendored::protoc_bin_path()?);
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_with_config(config, &services, &[contract, google])?;
    Ok(())
}
