//! A test hook: the log-writer thread takes longer for its writes, or hangs in one, as a disk that fails slowly does.
//!
//! The variable [`VARIABLE`] of the process names a file. What stands in it when a write begins holds for that write, so that a test
//! slows the disk of a process that runs, and mends it again:
//!
//! | the file | the write |
//! |---|---|
//! | is not there, or empty | goes as it goes |
//! | a number | begins so many microseconds later |
//! | `hang` | begins once the file says something else, or the thread is to end |
//!
//! Without the variable no write pays more than a look at an option. Writes through the ring (`wal.writer = "ring"`, or `"auto"` while it
//! prefers the ring) do not come by here. Called by: the log-writer thread.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Names the file.
const VARIABLE: &str = "SYNOD_TEST_LOG_DELAY";
/// Between two looks at the file of a thread that hangs.
const LOOK: Duration = Duration::from_millis(1);

/// What a write is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Go,
    Late(Duration),
    Hang,
}

/// See the module.
pub(crate) struct Delay {
    file: Option<PathBuf>,
}

impl Delay {
    /// As the process's environment says.
    pub(crate) fn of_process() -> Delay {
        Delay { file: std::env::var_os(VARIABLE).map(PathBuf::from) }
    }

    /// Before a write.
    ///
    /// # Panics
    /// If the file cannot be read, or says something else: a test that means to slow a disk must not go on without.
    pub(crate) fn hold(&self, stop: &AtomicBool) {
        loop {
            match self.order() {
                Order::Go => return,
                Order::Late(by) => return std::thread::sleep(by),
                Order::Hang if stop.load(Ordering::Acquire) => return,
                Order::Hang => std::thread::sleep(LOOK),
            }
        }
    }

    fn order(&self) -> Order {
        let Some(file) = &self.file else { return Order::Go };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Order::Go,
            Err(error) => panic!("{VARIABLE}: {}: {error}", file.display()),
        };
        match text.trim() {
            // Also what one sees who looks while it is written.
            "" => Order::Go,
            "hang" => Order::Hang,
            us => match us.parse() {
                Ok(us) => Order::Late(Duration::from_micros(us)),
                Err(error) => panic!("{VARIABLE}: {}: {us:?}: {error}", file.display()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn delay(name: &str) -> (Delay, PathBuf) {
        let file = std::env::temp_dir().join(format!("synod-log-delay-{name}-{}", std::process::id()));
        (Delay { file: Some(file.clone()) }, file)
    }

    #[test]
    fn a_write_is_late_as_long_as_the_file_says_so() {
        let (delay, file) = delay("late");
        let stop = AtomicBool::new(false);
        assert_eq!(Delay { file: None }.order(), Order::Go);
        assert_eq!(delay.order(), Order::Go, "there is no file");
        std::fs::write(&file, "20000\n").unwrap();
        let began = Instant::now();
        delay.hold(&stop);
        assert!(began.elapsed() >= Duration::from_millis(20));
        std::fs::write(&file, "").unwrap();
        assert_eq!(delay.order(), Order::Go);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(delay.order(), Order::Go);
    }

    #[test]
    fn a_write_that_hangs_begins_when_the_file_says_otherwise_or_the_thread_ends() {
        let (delay, file) = delay("hang");
        std::fs::write(&file, "hang").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let held = scope.spawn(|| delay.hold(&stop));
            assert!(!held.is_finished() && delay.order() == Order::Hang);
            std::fs::write(&file, "0").unwrap();
            held.join().unwrap();
        });
        std::fs::write(&file, "hang").unwrap();
        stop.store(true, Ordering::Release);
        delay.hold(&stop);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    #[should_panic(expected = "SYNOD_TEST_LOG_DELAY")]
    fn what_it_cannot_read_ends_the_thread() {
        let (delay, file) = delay("odd");
        std::fs::write(&file, "slowly").unwrap();
        let order = std::panic::catch_unwind(|| delay.order());
        std::fs::remove_file(&file).unwrap();
        std::panic::resume_unwind(order.unwrap_err());
    }
}
