//! The way to a member: a connection that makes itself anew when it breaks, and that can be replaced by another
//! while calls are under way on it.
//!
//! A connection lives as long as calls on it do, and the streams between members do not end by themselves. So
//! whoever keeps a stream open asks which connection it is on, and opens it anew once there is a newer one.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kvorum_tls::{Dialed, Loaded, Peer};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Error};

/// A member's certificate that ends so soon is asked for anew: it may have another one by now.
const RENEWAL_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// The way to a member. Clones are the same way.
#[derive(Clone)]
pub struct Way(Arc<Inner>);

struct Inner {
    current: watch::Sender<Numbered>,
    shown: Shown,
    is_replaceable: bool,
}

/// A way that others use; it does not keep it.
pub struct KnownWay(Weak<Inner>);

#[derive(Clone)]
struct Numbered {
    number: u64,
    channel: Channel,
}

/// What both sides have shown on the last connection that was made.
#[derive(Clone, Default)]
pub struct Shown(Arc<Mutex<Option<Spoken>>>);

/// How a connection was made.
enum Spoken {
    /// Without TLS, which this node would rather have spoken.
    Plain,
    /// With these certificates.
    Tls { own: [u8; 32], peer: Box<Peer> },
}

impl Way {
    /// A way on this channel and no other.
    pub fn fixed(channel: Channel) -> Way {
        Way::new(channel, Shown::default(), false)
    }

    /// A way that begins with this channel, whose connections say in `shown` what was shown on them.
    pub fn replaceable(channel: Channel, shown: Shown) -> Way {
        Way::new(channel, shown, true)
    }

    fn new(channel: Channel, shown: Shown, is_replaceable: bool) -> Way {
        let current = watch::Sender::new(Numbered { number: 0, channel });
        Way(Arc::new(Inner { current, shown, is_replaceable }))
    }

    /// For whoever looks after the ways that others use.
    pub fn known(&self) -> KnownWay {
        KnownWay(Arc::downgrade(&self.0))
    }

    /// Whether there may ever be another channel.
    pub fn is_replaceable(&self) -> bool {
        self.0.is_replaceable
    }

    /// Which channel is in use: later ones have higher numbers.
    pub fn number(&self) -> u64 {
        self.0.current.borrow().number
    }

    /// Returns once another channel is in use than that with this number.
    pub async fn replaced(&self, number: u64) {
        // The sender lives as long as this way.
        let _ = self.0.current.subscribe().wait_for(|current| current.number != number).await;
    }

    /// From now on calls take this channel. Those that are under way stay where they are.
    pub fn replace(&self, channel: Channel) {
        self.0.current.send_modify(|current| {
            *current = Numbered { number: current.number + 1, channel };
        });
    }

    /// What was shown on the last connection.
    pub fn shown(&self) -> &Shown {
        &self.0.shown
    }
}

impl KnownWay {
    /// The way, as long as somebody uses it.
    pub fn get(&self) -> Option<Way> {
        self.0.upgrade().map(Way)
    }
}

impl Shown {
    /// A connection was made, with TLS.
    pub fn set(&self, Dialed { loaded, peer }: Dialed) {
        let own = loaded.leaf_fingerprint();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Spoken::Tls { own, peer: Box::new(peer) });
    }

    /// A connection was made, without TLS.
    pub fn set_plain(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Spoken::Plain);
    }

    /// Whether a connection that was made now could be a better one: this one is plain, the own certificate is
    /// another, or the member's is of another CA than the own, or not believed any more, or about to end.
    pub fn is_outdated(&self, loaded: &Loaded) -> bool {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shown {
            None => false,
            Some(Spoken::Plain) => true,
            Some(Spoken::Tls { own, peer }) => {
                *own != loaded.leaf_fingerprint()
                    || !loaded.by_current_ca(peer)
                    || !loaded.still_believes(peer)
                    || peer.time_left() < RENEWAL_AHEAD
            }
        }
    }
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Which channel it will be is seen when there is a request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut channel = self.0.current.borrow().channel.clone();
        Box::pin(async move {
            poll_fn(|cx| channel.poll_ready(cx)).await?;
            channel.call(request).await
        })
    }
}
