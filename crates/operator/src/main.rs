//! `kvorum-operator`: watches KvClusters.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kvorum_operator::crd;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The operator of Kvorum clusters.
#[derive(Debug, Parser)]
#[command(name = "kvorum-operator", version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Print the CustomResourceDefinition of KvCluster as YAML
    Crd,
}

fn main() -> ExitCode {
    match Cli::parse().task {
        Task::Crd => print_definition(),
    }
}

#[expect(clippy::print_stdout, reason = "the definition is this command's output")]
fn print_definition() -> ExitCode {
    print!("{}", serde_yaml_ng::to_string(&crd::definition()).expect("a definition is plain data"));
    ExitCode::SUCCESS
}
