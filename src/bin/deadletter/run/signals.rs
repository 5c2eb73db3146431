//! Signals that arrive while the command runs are the command's business.
//!
//! We stay alive to capture how it ended. A terminal sends its signals to the command as well, so
//! an interrupt is passed on only when no terminal can have sent it. A signal that our caller
//! ignores (`nohup`) is left alone, so that the command ignores it too.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as Arrived};

/// Holds our own death back and passes signals on.
pub struct Signals {
    arrived: Option<Arrived>,
    handle: Handle,
    /// Guards the receiver: `None` once it may be gone. Held while a signal is sent.
    receiver: Arc<Mutex<Option<Pid>>>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Takes the signals over.
    pub fn hold() -> io::Result<Self> {
        let ignored = ignored_signals();
        let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
        let ours = all.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let arrived = Arrived::new(ours)?;
        let handle = arrived.handle();
        Ok(Self { arrived: Some(arrived), handle, receiver: Arc::default(), thread: None })
    }

    /// Passes signals on to this process, also those that came since [`Self::hold`].
    pub fn forward_to(&mut self, pid: Pid) {
        *lock(&self.receiver) = Some(pid);
        let Some(mut arrived) = self.arrived.take() else { return };
        let receiver = Arc::clone(&self.receiver);
        let forward = move || {
            for number in arrived.forever() {
                let signal = match number {
                    SIGTERM => Signal::TERM,
                    SIGHUP => Signal::HUP,
                    SIGINT if !has_terminal() => Signal::INT,
                    SIGQUIT if !has_terminal() => Signal::QUIT,
                    _ => continue,
                };
                if let Some(pid) = *lock(&receiver) {
                    // It may just have ended, which is what the signal wanted.
                    let _ = kill_process(pid, signal);
                }
            }
        };
        // Without the thread signals are held back and not passed on; the capture still works.
        self.thread = std::thread::Builder::new().name("signals".into()).spawn(forward).ok();
    }

    /// Sends nothing any more.
    pub fn stop_forwarding(&self) {
        *lock(&self.receiver) = None;
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(receiver: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// The signals that we were started to ignore, as a set of bits from signal 1.
pub fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
