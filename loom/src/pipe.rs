//! A pipe of two bytes, its socket, and a reader that sleeps.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::handoff::{announce_awake, announce_sleep, must_wake, publish, published};

const BYTES: u64 = 2;

/// What `transports/src/shm/pipe.rs` lays out in shared memory. The bytes are cells that complain when
/// one side reads what the other may be writing.
struct Pipe {
    written: AtomicU64,
    read: AtomicU64,
    reader_sleeps: AtomicU32,
    ring: [UnsafeCell<u8>; BYTES as usize],
    /// Bytes in the socket that wakes the reader.
    socket: (Mutex<u32>, Condvar),
}

impl Pipe {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            reader_sleeps: AtomicU32::new(0),
            ring: [UnsafeCell::new(0), UnsafeCell::new(0)],
            socket: (Mutex::new(0), Condvar::new()),
        })
    }

    fn write(&self, position: u64, byte: u8) {
        self.ring[(position % BYTES) as usize].with_mut(|cell| unsafe { *cell = byte });
        publish(&self.written, position + 1);
    }

    /// For the writer.
    fn wake_reader(&self) {
        *self.socket.0.lock().unwrap() += 1;
        self.socket.1.notify_one();
    }

    /// For the reader: sleeps until the socket has something, and empties it.
    fn sleep(&self) {
        let mut bells = self.socket.0.lock().unwrap();
        while *bells == 0 {
            // For ever, if the writer does not see the announcement: loom calls that a deadlock.
            bells = self.socket.1.wait(bells).unwrap();
        }
        *bells = 0;
    }

    fn take(&self, position: u64) -> u8 {
        let byte = self.ring[(position % BYTES) as usize].with(|cell| unsafe { *cell });
        publish(&self.read, position + 1);
        byte
    }
}

#[test]
fn bytes_are_read_before_they_are_overwritten() {
    loom::model(|| {
        let pipe = Pipe::new();
        let writer = Arc::clone(&pipe);
        let thread = thread::spawn(move || {
            for position in 0..3 {
                while position - published(&writer.read) == BYTES {
                    thread::yield_now();
                }
                writer.write(position, position as u8);
            }
        });
        for position in 0..3 {
            while published(&pipe.written) == position {
                thread::yield_now();
            }
            assert_eq!(pipe.take(position), position as u8);
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_reader_that_sleeps_is_woken() {
    loom::model(|| {
        let pipe = Pipe::new();
        let writer = Arc::clone(&pipe);
        let thread = thread::spawn(move || {
            for position in 0..2 {
                writer.write(position, 7);
                if must_wake(&writer.reader_sleeps) {
                    writer.wake_reader();
                }
            }
        });
        let mut position = 0;
        while position < 2 {
            if published(&pipe.written) > position {
                assert_eq!(pipe.take(position), 7);
                position += 1;
                continue;
            }
            announce_sleep(&pipe.reader_sleeps);
            if published(&pipe.written) == position {
                pipe.sleep();
            }
            announce_awake(&pipe.reader_sleeps);
        }
        thread.join().unwrap();
    });
}

/// The writer waits for room and the reader announces it by the pipe of the other direction.
#[test]
fn a_writer_that_waits_for_room_is_woken() {
    loom::model(|| {
        let (pipe, back) = (Pipe::new(), Pipe::new());
        for position in 0..BYTES {
            pipe.write(position, 1);
        }
        let (reader, readers_back) = (Arc::clone(&pipe), Arc::clone(&back));
        let thread = thread::spawn(move || {
            assert_eq!(reader.take(0), 1);
            if must_wake(&readers_back.reader_sleeps) {
                readers_back.wake_reader();
            }
        });
        while published(&pipe.read) == 0 {
            announce_sleep(&back.reader_sleeps);
            if published(&pipe.read) == 0 {
                back.sleep();
            }
            announce_awake(&back.reader_sleeps);
        }
        pipe.write(BYTES, 2);
        thread.join().unwrap();
    });
}
