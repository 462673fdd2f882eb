//! What is in memory stays there.

use std::io;

/// Has the kernel write no core file of this process, and let nobody but root trace it: private keys, passwords and
/// tokens are in its memory. What a limit on the size of core files does not do where a program takes them.
/// Elsewhere than on Linux it does nothing.
pub fn keep_out_of_core_files() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
