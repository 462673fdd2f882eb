//! How much the two ends of a connection take of each other.

/// What a peer may send on one stream before it has to wait: a whole largest request, so that it
/// needs no round trip.
pub(super) const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// What a peer may send on one connection before it has to wait, and so the memory that the
/// unread requests of a connection can take.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The largest message between members: one log entry of the largest request, and room.
pub const PEER_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request's message takes beside key and value, and room to tell one that is a little too
/// large that it is.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// The largest message that a service on the client port decodes.
pub fn decoding_limit(request_bytes_max: usize) -> usize {
    request_bytes_max + REQUEST_OVERHEAD_BYTES
}
