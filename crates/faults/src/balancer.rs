//! One address in front of several nodes, as a Service of Kubernetes has: each new connection goes to the next
//! node that is listed, and whoever keeps the list is late, as it is there. It hears nothing of the nodes itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::Result;

/// See the module. Dropped, it takes no more connections.
#[derive(Debug)]
pub struct Balancer {
    address: String,
    nodes: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// One with these nodes behind it.
    pub async fn start(nodes: Vec<String>) -> Result<Balancer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let nodes = Arc::new(Mutex::new(nodes));
        let task = tokio::spawn(serve(listener, nodes.clone()));
        Ok(Balancer { address, nodes, task })
    }

    /// Where clients connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// No new connection goes to this node. Those that are there stay.
    pub fn remove(&self, node: &str) {
        lock(&self.nodes).retain(|other| other != node);
    }

    /// New connections go to this node too.
    pub fn add(&self, node: &str) {
        lock(&self.nodes).push(node.to_owned());
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, nodes: Arc<Mutex<Vec<String>>>) {
    let mut turn = 0;
    while let Ok((visitor, _)) = listener.accept().await {
        let node = {
            let nodes = lock(&nodes);
            turn += 1;
            nodes.get(turn % nodes.len().max(1)).cloned()
        };
        // Where nobody listens the visitor is turned away.
        let Some(node) = node else { continue };
        tokio::spawn(connect(visitor, node));
    }
}

async fn connect(mut visitor: TcpStream, node: String) {
    if let Ok(mut served) = TcpStream::connect(&node).await
        && visitor.set_nodelay(true).is_ok()
        && served.set_nodelay(true).is_ok()
    {
        // How a connection ends is told to both sides, and nobody else wants to know.
        let _ = copy_bidirectional(&mut visitor, &mut served).await;
    }
}

/// A panic while the lock was held has left the list whole.
fn lock(nodes: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    nodes.lock().unwrap_or_else(PoisonError::into_inner)
}
