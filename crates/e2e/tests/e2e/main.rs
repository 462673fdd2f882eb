//! What every change must pass on a real Kubernetes of three machines, in about a quarter of an hour:
//! `make e2e`. Each test is one promise of the operator; most have writers and a checker at work
//! throughout, and print the figures they assert.

mod access;
mod bootstrap;
mod defaults;
mod install;
mod machines;
mod operators;
mod plugin;
mod quorum;
mod repair;
mod rights;
mod rollout;
mod scale;
mod specs;
mod stock;
mod tls;
