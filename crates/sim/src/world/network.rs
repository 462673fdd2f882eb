//! The network between hosts: byte streams as TCP makes them.
//!
//! A direction of a connection is a queue of segments, each with the time at which it is there at the earliest; they
//! arrive in order. What is lost, or meets a link that is cut, arrives when it is sent again, after pauses that
//! double. The kernel of a machine lives on when a process is killed, and says so to the others; a machine without power
//! says nothing, and when it is back it refuses what belongs to connections that it does not know.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use rand::rngs::StdRng;

use super::clock::{MILLISECOND, Micros, SECOND};
use super::names::{Names, Trouble, host_at, own_address};
use super::trace::Trace;
use super::weather::{LATENCY, Weather};

/// Bytes that may be under way or unread in one direction.
pub const WINDOW_BYTES: usize = 256 << 10;
/// The first pause before a segment is sent again, and the longest.
const RESEND_PAUSE: Micros = 200 * MILLISECOND;
const RESEND_PAUSE_MAX: Micros = 30 * SECOND;
/// So often a segment is sent to an address that is nobody's, for some three seconds.
const TRIES_NOBODY_MAX: u32 = 4;
/// How long a packet takes within a machine.
const LOCAL_LATENCY: Micros = 20;
/// The first port of those who connect.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 40_000;

/// Where members hear each other, and clients.
pub const PEER_PORT: u16 = 2380;
/// See [`PEER_PORT`].
pub const CLIENT_PORT: u16 = 2379;

/// The number of a host.
pub type HostId = usize;
/// The number of a connection.
pub type ConnectionId = u64;

/// What an end of a connection sends.
#[derive(Debug)]
enum Segment {
    Open,
    Accepted,
    Data(Vec<u8>),
    End,
    Reset,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Direction {
    /// Under way, each with its earliest arrival.
    segments: VecDeque<(Micros, Segment)>,
    /// How often the first of them was sent in vain.
    tries: u32,
    /// The key under which its next arrival stands among the events.
    due: Option<(Micros, u64)>,
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(super) struct End {
    host: HostId,
    /// What has arrived and is not read; the first one's first bytes may be.
    inbox: VecDeque<Vec<u8>>,
    read_of_first: usize,
    /// Bytes that this end has sent and the other has not read.
    unread_bytes: usize,
    is_open: bool,
    has_ended: bool,
    pub(super) is_reset: bool,
    /// Nobody holds this end any more.
    is_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
    addresses: [SocketAddr; 2],
    /// Who has connected, where that is known.
    user: Option<&'static str>,
    ways: [Direction; 2],
}

#[derive(Debug, Default)]
struct Port {
    waiting: VecDeque<ConnectionId>,
    waker: Option<Waker>,
}

/// All connections of all hosts.
#[derive(Debug)]
pub struct Network {
    pub(super) now: Micros,
    random: StdRng,
    trace: Arc<Trace>,
    connections: BTreeMap<ConnectionId, Connection>,
    connections_made: u64,
    ports: BTreeMap<SocketAddr, Port>,
    /// The next arrival of each direction, by time and number.
    events: BTreeMap<(Micros, u64), (ConnectionId, usize)>,
    events_made: u64,
    /// How many faults cut each link, one way.
    cuts: BTreeMap<(HostId, HostId), u32>,
    /// Machines without power, and processes of which nothing leaves any more.
    dark: Vec<HostId>,
    muted: Vec<HostId>,
    weather: Weather,
    pub(super) names: Names,
    wakers: Vec<Waker>,
}

/// What is done with the wakers afterwards: never while the network is held.
pub(super) type Wakers = Vec<Waker>;

impl Network {
    pub(super) fn new(random: StdRng, names: StdRng, trace: Arc<Trace>) -> Network {
        Network {
            now: 0,
            random,
            trace,
            connections: BTreeMap::new(),
            connections_made: 0,
            ports: BTreeMap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            cuts: BTreeMap::new(),
            dark: Vec::new(),
            muted: Vec::new(),
            weather: Weather::new(LATENCY, 0, None),
            names: Names::new(names),
            wakers: Vec::new(),
        }
    }

    /// Cuts a link one way, once more.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    /// Takes one cut back.
    pub fn mend(&mut self, from: HostId, to: HostId) {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    /// How links are from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        let was_narrow = self.weather.bytes_a_second.is_some();
        self.weather = weather;
        if was_narrow && self.weather.bytes_a_second.is_none() {
            self.hurry();
        }
    }

    /// What waits for a narrow link waits no longer: none is narrow any more.
    fn hurry(&mut self) {
        let latest = self.now + self.weather.latency.1;
        let mut hurried = Vec::new();
        for (id, connection) in &mut self.connections {
            for (side, way) in connection.ways.iter_mut().enumerate().filter(|(_, way)| way.tries == 0) {
                way.segments.iter_mut().for_each(|(at, _)| *at = latest.min(*at));
                if let Some(due) = way.due.take_if(|due| due.0 > latest) {
                    self.events.remove(&due);
                    hurried.push((*id, side));
                }
            }
        }
        hurried.into_iter().for_each(|(id, side)| self.schedule(id, side, 0));
    }

    /// Whether something of one of the others at such a port is under way to a host.
    pub fn is_under_way_to(&self, host: HostId, port: u16) -> bool {
        let mut connections = self.connections.values().filter(|found| found.addresses[1].port() == port);
        connections.any(|Connection { ends, ways, .. }| {
            (0..2).any(|side| {
                ends[side].host != host && ends[1 - side].host == host && !ways[side].segments.is_empty()
            })
        })
    }

    /// The address of a host.
    pub fn address(&mut self, host: HostId) -> std::net::IpAddr {
        self.names.address(host)
    }

    /// Looking names up gets into trouble, or out of it.
    pub fn trouble_names(&mut self, trouble: Trouble, begins: bool) {
        if begins { self.names.begin(trouble) } else { self.names.end(trouble) }
    }

    /// Resets every connection between two hosts.
    pub fn reset_between(&mut self, one: HostId, other: HostId) {
        let between = |ends: &[End; 2]| {
            let hosts = (ends[0].host, ends[1].host);
            hosts == (one, other) || hosts == (other, one)
        };
        for connection in self.connections.values_mut().filter(|connection| between(&connection.ends)) {
            for end in &mut connection.ends {
                end.is_reset = true;
                self.wakers.extend(end.reader.take().into_iter().chain(end.writer.take()));
            }
        }
    }

    /// The machine has no power: it neither sends nor receives.
    pub(super) fn darken(&mut self, host: HostId) {
        self.dark.push(host);
    }

    pub(super) fn lighten(&mut self, host: HostId) {
        self.dark.retain(|dark| *dark != host);
    }

    /// From now on nothing leaves the process: it is dead, or dies.
    pub(super) fn mute(&mut self, host: HostId) {
        self.muted.push(host);
    }

    /// What a process leaves behind: its kernel, where there is still one, tells the others.
    pub(super) fn forget_process(&mut self, host: HostId) {
        self.muted.retain(|muted| *muted != host);
        let tells = !self.dark.contains(&host);
        let of_host = |(id, connection): (&ConnectionId, &mut Connection)| {
            let sides = (0..2).filter(|side| connection.ends[*side].host == host).collect::<Vec<_>>();
            sides.into_iter().map(|side| (*id, side)).collect::<Vec<_>>()
        };
        let ends: Vec<_> = self.connections.iter_mut().flat_map(of_host).collect();
        for (id, side) in ends {
            if let Some(connection) = self.connections.get_mut(&id) {
                let end = &mut connection.ends[side];
                (end.is_gone, end.reader, end.writer) = (true, None, None);
                end.inbox.clear();
                connection.ways[side].segments.clear();
                if let Some(due) = connection.ways[side].due.take() {
                    self.events.remove(&due);
                }
            }
            if tells {
                self.send(id, side, Segment::Reset);
            }
        }
        self.ports.retain(|address, _| host_at(*address) != host);
    }

    /// Whether a packet from one host reaches another one now.
    fn reaches(&self, from: HostId, to: HostId) -> bool {
        from == to || self.cuts.get(&(from, to)).is_none_or(|count| *count == 0)
    }

    fn send(&mut self, id: ConnectionId, side: usize, segment: Segment) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (from, to) = (connection.ends[side].host, connection.ends[1 - side].host);
        if self.muted.contains(&from) || self.dark.contains(&from) {
            return;
        }
        let mut takes = LOCAL_LATENCY;
        if from != to {
            let bytes = if let Segment::Data(data) = &segment { data.len() } else { 0 };
            takes = self.weather.takes(&mut self.random, self.now, (from, to), bytes);
            if self.weather.loses(&mut self.random) {
                takes += RESEND_PAUSE;
            }
        }
        let at = self.now + takes;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ways[side].segments.push_back((at, segment));
        }
        self.schedule(id, side, 0);
    }

    /// Puts the next arrival of a direction among the events, unless it is there.
    fn schedule(&mut self, id: ConnectionId, side: usize, not_before: Micros) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let way = &mut connection.ways[side];
        if way.due.is_some() {
            return;
        }
        if let Some((at, _)) = way.segments.front() {
            self.events_made += 1;
            let key = ((*at).max(not_before), self.events_made);
            way.due = Some(key);
            self.events.insert(key, (id, side));
        }
    }

    /// Delivers what is due by now.
    pub(super) fn deliver(&mut self, now: Micros) -> Wakers {
        while let Some((&key, &(id, side))) = self.events.first_key_value() {
            if key.0 > now {
                break;
            }
            self.now = key.0;
            self.events.remove(&key);
            self.arrive(id, side);
        }
        self.now = now;
        std::mem::take(&mut self.wakers)
    }

    fn arrive(&mut self, id: ConnectionId, side: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.ways[side].due = None;
        let (from, to) = (connection.ends[side].host, connection.ends[1 - side].host);
        let is_nobody = connection.addresses[1 - side].ip() != self.names.address(to);
        if is_nobody && connection.ways[side].tries >= TRIES_NOBODY_MAX {
            return self.give_up(id, side);
        }
        if is_nobody || !self.reaches(from, to) || self.dark.contains(&to) {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let way = &mut connection.ways[side];
            let pause = (RESEND_PAUSE << way.tries.min(8)).min(RESEND_PAUSE_MAX);
            way.tries += 1;
            return self.schedule(id, side, self.now + pause);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let way = &mut connection.ways[side];
        way.tries = 0;
        let Some((_, segment)) = way.segments.pop_front() else { return };
        self.note(id, from, to, &segment);
        self.take(id, side, segment);
        self.schedule(id, side, self.now);
        self.sweep(id);
    }

    /// Who sends to an address that is nobody's is told so in the end.
    fn give_up(&mut self, id: ConnectionId, side: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.ways[side].segments.clear();
        connection.ends[1 - side].is_gone = true;
        let end = &mut connection.ends[side];
        end.is_reset = true;
        self.wakers.extend(end.reader.take().into_iter().chain(end.writer.take()));
        self.sweep(id);
    }

    fn note(&self, id: ConnectionId, from: HostId, to: HostId, segment: &Segment) {
        let (kind, data): (_, &[u8]) = match segment {
            Segment::Open => ("open", &[]),
            Segment::Accepted => ("accepted", &[]),
            Segment::Data(data) => ("data", data),
            Segment::End => ("end", &[]),
            Segment::Reset => ("reset", &[]),
        };
        // Members also send each other RocksDB's files, which are not the same to the byte in each run. What else
        // they say stands in the log and in what they apply.
        let is_between_members =
            self.connections.get(&id).is_some_and(|connection| connection.addresses[1].port() == PEER_PORT);
        let data = if is_between_members { &[] } else { data };
        self.trace.note(kind, &[id, from as u64, to as u64, data.len() as u64], data);
    }

    fn take(&mut self, id: ConnectionId, side: usize, segment: Segment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[1 - side];
        if end.is_gone {
            if !matches!(segment, Segment::Reset) {
                self.send(id, 1 - side, Segment::Reset);
            }
            return;
        }
        match segment {
            Segment::Open => {
                let wanted = connection.addresses[1];
                let wanted = SocketAddr::new(own_address(end.host), wanted.port());
                let Some(port) = self.ports.get_mut(&wanted) else {
                    end.is_gone = true;
                    return self.send(id, 1 - side, Segment::Reset);
                };
                port.waiting.push_back(id);
                end.is_open = true;
                self.wakers.extend(port.waker.take());
                self.send(id, 1 - side, Segment::Accepted);
            }
            Segment::Accepted => end.is_open = true,
            Segment::Data(data) => end.inbox.push_back(data),
            Segment::End => end.has_ended = true,
            Segment::Reset => end.is_reset = true,
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            let end = &mut connection.ends[1 - side];
            self.wakers.extend(end.reader.take());
            if end.is_reset || end.is_open {
                self.wakers.extend(end.writer.take());
            }
        }
    }

    /// Forgets a connection that nobody holds and on which nothing is under way.
    fn sweep(&mut self, id: ConnectionId) {
        let is_over = self.connections.get(&id).is_some_and(|connection| {
            connection.ends.iter().all(|end| end.is_gone)
                && connection.ways.iter().all(|way| way.segments.is_empty())
        });
        if is_over {
            self.connections.remove(&id);
        }
    }

    // What ends of connections and ports ask for.

    pub(super) fn connect(
        &mut self,
        from: HostId,
        to: SocketAddr,
        user: Option<&'static str>,
    ) -> ConnectionId {
        self.connections_made += 1;
        let id = self.connections_made;
        let port = FIRST_PORT + (id % u64::from(PORTS)) as u16;
        let end = |host| End { host, ..End::default() };
        let connection = Connection {
            ends: [end(from), end(host_at(to))],
            addresses: [SocketAddr::new(self.names.address(from), port), to],
            user,
            ways: Default::default(),
        };
        self.connections.insert(id, connection);
        self.send(id, 0, Segment::Open);
        id
    }

    /// Who has connected, where that is known.
    pub(super) fn user_of(&self, id: ConnectionId) -> Option<&'static str> {
        self.connections.get(&id).and_then(|connection| connection.user)
    }

    /// None: not yet; false: it was refused.
    pub(super) fn is_connected(&mut self, id: ConnectionId, waker: &Waker) -> Option<bool> {
        let Some(connection) = self.connections.get_mut(&id) else { return Some(false) };
        let end = &mut connection.ends[0];
        if end.is_reset || end.is_open {
            return Some(!end.is_reset);
        }
        end.reader = Some(waker.clone());
        None
    }

    pub(super) fn listen(&mut self, address: SocketAddr) -> bool {
        let is_free = !self.ports.contains_key(&address);
        self.ports.entry(address).or_default();
        is_free
    }

    pub(super) fn stop_listening(&mut self, address: SocketAddr) {
        let Some(port) = self.ports.remove(&address) else { return };
        for id in port.waiting {
            self.close(id, 1);
        }
    }

    pub(super) fn accept(&mut self, at: SocketAddr, waker: &Waker) -> Option<(ConnectionId, SocketAddr)> {
        let port = self.ports.get_mut(&at)?;
        while let Some(id) = port.waiting.pop_front() {
            if let Some(connection) = self.connections.get(&id) {
                return Some((id, connection.addresses[0]));
            }
        }
        port.waker = Some(waker.clone());
        None
    }

    /// Fills the buffer. None: there is nothing yet. Nothing: the other has ended.
    pub(super) fn read(
        &mut self,
        id: ConnectionId,
        side: usize,
        room: usize,
        waker: &Waker,
    ) -> Option<Result<Vec<u8>, ()>> {
        let Some(connection) = self.connections.get_mut(&id) else { return Some(Err(())) };
        let end = &mut connection.ends[side];
        let mut read = Vec::new();
        while read.len() < room
            && let Some(first) = end.inbox.front()
        {
            let unread = &first[end.read_of_first..];
            let taken = unread.len().min(room - read.len());
            read.extend_from_slice(&unread[..taken]);
            end.read_of_first += taken;
            if end.read_of_first == first.len() {
                end.inbox.pop_front();
                end.read_of_first = 0;
            }
        }
        if !read.is_empty() {
            // The window opens without a way back: a link that is cut this way lets it through.
            let other = &mut connection.ends[1 - side];
            other.unread_bytes = other.unread_bytes.saturating_sub(read.len());
            self.wakers.extend(other.writer.take());
            return Some(Ok(read));
        }
        if end.is_reset {
            return Some(Err(()));
        }
        if end.has_ended {
            return Some(Ok(read));
        }
        end.reader = Some(waker.clone());
        None
    }

    /// Sends as many bytes as there is room for. None: there is none.
    pub(super) fn write(
        &mut self,
        id: ConnectionId,
        side: usize,
        bytes: &[std::io::IoSlice<'_>],
        waker: &Waker,
    ) -> Option<Result<usize, ()>> {
        let Some(connection) = self.connections.get_mut(&id) else { return Some(Err(())) };
        let end = &mut connection.ends[side];
        if end.is_reset || end.is_gone {
            return Some(Err(()));
        }
        let room = WINDOW_BYTES.saturating_sub(end.unread_bytes);
        if room == 0 {
            end.writer = Some(waker.clone());
            return None;
        }
        let mut data = Vec::new();
        for slice in bytes {
            data.extend_from_slice(&slice[..slice.len().min(room - data.len())]);
        }
        let written = data.len();
        if written > 0 {
            end.unread_bytes += written;
            self.send(id, side, Segment::Data(data));
        }
        Some(Ok(written))
    }

    pub(super) fn end(&mut self, id: ConnectionId, side: usize) {
        self.send(id, side, Segment::End);
    }

    pub(super) fn close(&mut self, id: ConnectionId, side: usize) {
        self.send(id, side, Segment::End);
        if let Some(connection) = self.connections.get_mut(&id) {
            let end = &mut connection.ends[side];
            end.is_gone = true;
            end.inbox.clear();
        }
        self.sweep(id);
    }

    pub(super) fn take_wakers(&mut self) -> Wakers {
        std::mem::take(&mut self.wakers)
    }
}
