//! Very many who come at once: connections, each with a handshake and a first call, and log-ins at a rate.
//!
//! A connection is made as a client does it: it has as long as any for its handshake, and tries again where that was not
//! enough. They come from many addresses, as pods do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kvorum_proto::auth::v1::AuthenticateRequest;
use kvorum_proto::auth::v1::auth_client::AuthClient;
use kvorum_proto::kv::v1::GetRequest;
use kvorum_proto::kv::v1::kv_client::KvClient;
use serde_json::json;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::describe;
use crate::args::{ConnectArgs, LogInArgs};
use crate::caller::Caller;
use crate::endpoint::Endpoint;
use crate::record::{Class, Record};
use crate::transport::Transport;

/// Before one tries again.
const PAUSE: Duration = Duration::from_millis(100);
/// One that was not served by then gives up.
const GIVE_UP: Duration = Duration::from_secs(60);
/// What one was not served for is told of so many.
const TOLD_MAX: usize = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Opens all connections at once, and answers one JSON object.
pub async fn connect(args: &ConnectArgs) -> Result<String, Failure> {
    let tls = args.load.tls()?;
    let caller = Caller { tls, token: None };
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..args.load.connections() {
        let endpoint = args.load.endpoints[number % args.load.endpoints.len()].clone();
        let (caller, from) = (caller.clone(), source(args, number));
        tasks.spawn(async move {
            let mut tried = 0_u32;
            loop {
                tried += 1;
                match served(&endpoint, &caller, from).await {
                    Ok(held) => return (Ok(held), tried, begun.elapsed()),
                    Err(error) if begun.elapsed() >= GIVE_UP => return (Err(error), tried, begun.elapsed()),
                    Err(_) => sleep(PAUSE).await,
                }
            }
        });
    }
    let (mut held, mut record, mut attempts, mut told) = (Vec::new(), Record::new(), 0, Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (outcome, tried, took) = ended?;
        attempts += tried;
        match outcome {
            Ok(transport) => {
                record.latency(Class::Read, took);
                held.push(transport);
            }
            Err(error) if told.len() < TOLD_MAX => told.push(error.to_string()),
            Err(_) => {}
        }
    }
    let took = begun.elapsed();
    sleep(args.hold.unwrap_or_default()).await;
    let lost = args.load.connections() - held.len();
    Ok(json!({
        "connections": held.len(), "not_served": lost, "attempts": attempts, "seconds": took.as_secs_f64(),
        "served_after": record.all(), "errors": told,
    })
    .to_string())
}

/// Where a connection comes from: one of so many addresses of this machine.
fn source(args: &ConnectArgs, number: usize) -> Option<Ipv4Addr> {
    let number = u32::try_from(number % args.sources?).ok()?;
    Some(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 1)) + number))
}

/// Connects and makes a first call.
async fn served(endpoint: &Endpoint, caller: &Caller, from: Option<Ipv4Addr>) -> Result<Transport, Failure> {
    let address: SocketAddr = lookup_host(endpoint.address()).await?.next().ok_or("it has no address")?;
    let transport = Transport::connect_from(endpoint, address, from, caller).await?;
    let request = GetRequest { serializable: true, ..first_key() };
    KvClient::with_origin(transport.clone(), endpoint.origin()).get(request).await?;
    Ok(transport)
}

fn first_key() -> GetRequest {
    GetRequest { key: "\0".into(), ..GetRequest::default() }
}

/// Logs in at a rate, whether or not earlier ones were answered, and answers one JSON object.
pub async fn log_in(args: &LogInArgs) -> Result<String, Failure> {
    let (load, user) = (&args.load, args.load.user.as_ref().ok_or("--user is wanted")?);
    let endpoint = load.endpoints[0].clone();
    let caller = Caller { tls: load.tls()?, token: None };
    let transport = Transport::connect(&endpoint, &caller).await?;
    let mut client = AuthClient::with_origin(transport.clone(), endpoint.origin());
    let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
    let first = Instant::now();
    client.authenticate(request.clone()).await.map_err(|status| describe(&status))?;
    let first = first.elapsed();
    let every = Duration::from_secs(1) / u32::try_from(load.rate.ok_or("--rate is wanted")?.get())?;
    let (begun, mut due, mut tasks) = (Instant::now(), Instant::now(), JoinSet::new());
    let mut record = Record::new();
    while begun.elapsed() < load.duration() {
        let (mut client, request) = (client.clone(), request.clone());
        let mut kv = KvClient::with_origin(transport.clone(), endpoint.origin());
        let (at, others) = (due, args.others);
        tasks.spawn(async move {
            let outcome = match others {
                true => kv.get(GetRequest { serializable: true, ..first_key() }).await.map(drop),
                false => client.authenticate(request).await.map(drop),
            };
            (outcome, at.elapsed())
        });
        due += every;
        sleep_until(due).await;
        while let Some(ended) = tasks.try_join_next() {
            note(&mut record, ended?);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        note(&mut record, ended?);
    }
    Ok(json!({
        "first_ms": first.as_secs_f64() * 1e3, "calls": record.ops(), "errors": record.reasons,
        "latency": record.all(),
    })
    .to_string())
}

fn note(record: &mut Record, (outcome, took): (Result<(), tonic::Status>, Duration)) {
    match outcome {
        Ok(()) => record.latency(Class::Read, took),
        Err(status) => record.failed(&status),
    }
}
