//! Cluster time goes on through changes of the leader: whoever leads next is neither ahead of the one before nor behind it,
//! as long as of any majority somebody has been there all along who had heard of the time.

use crate::world::clock::{MILLISECOND, Micros};

/// How far cluster time may jump by a change of the leader: messages take their time, and clocks are a little off.
const JUMP_MAX: Micros = 300 * MILLISECOND;

/// How far cluster time was behind true time when a leader was seen last, in microseconds; what it is ahead is negative.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterTime(Option<(Micros, i64)>);

impl ClusterTime {
    /// Another look at who leads. Since `steady_since` so many members have been there all along that each majority has
    /// one, and messages were not late.
    pub fn look(&mut self, now: Micros, leader_ms: u64, steady_since: Micros) -> Result<(), String> {
        let behind = now as i64 - (leader_ms * MILLISECOND) as i64;
        let Some((then, before)) = self.0.replace((now, behind)) else { return Ok(()) };
        let jumped = behind - before;
        if then < steady_since || jumped.unsigned_abs() <= JUMP_MAX {
            return Ok(());
        }
        let (ms, way) = (jumped.unsigned_abs() / MILLISECOND, if jumped > 0 { "back" } else { "ahead" });
        Err(format!(
            "cluster time jumps {way} by {ms} ms with a change of the leader, though a majority knew it"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::clock::SECOND;

    /// Goal: a jump of cluster time is found, in either direction, where somebody knew it. Method: a table of second looks.
    #[test]
    fn cluster_time_does_not_jump() {
        let cases = [
            (12_000, 0, true),
            (11_800, 0, true),
            (11_000, 0, false),
            (13_000, 0, false),
            (11_000, 11 * SECOND, true),
        ];
        for (leader_ms, steady_since, is_right) in cases {
            let mut time = ClusterTime::default();
            time.look(10 * SECOND, 9_000, 0).unwrap();
            let second = time.look(13 * SECOND, leader_ms, steady_since);
            assert_eq!(second.is_ok(), is_right, "{leader_ms} {steady_since}");
        }
    }
}
