//! Two messages that are held back one after the other, and the courier that must deliver both.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::calls::Calls;

/// Messages held back, and messages delivered.
#[derive(Default)]
struct Wire {
    held: u32,
    delivered: u32,
}

#[test]
fn nothing_that_was_held_back_is_left_behind() {
    loom::model(|| {
        let calls = Arc::new(Calls::new());
        let wire = Arc::new((Mutex::new(Wire::default()), Condvar::new()));
        let courier = {
            let (calls, wire) = (Arc::clone(&calls), Arc::clone(&wire));
            thread::spawn(move || {
                // One round for each call: the real courier makes more.
                while calls.wait() {
                    let mut state = wire.0.lock().unwrap();
                    state.delivered += std::mem::take(&mut state.held);
                    wire.1.notify_one();
                }
            })
        };
        for _ in 0..2 {
            wire.0.lock().unwrap().held += 1;
            calls.call(courier.thread());
        }
        let mut state = wire.0.lock().unwrap();
        while state.delivered < 2 {
            // For ever, if a call is lost: loom calls that a deadlock.
            state = wire.1.wait(state).unwrap();
        }
        drop(state);
        calls.stop(courier.thread());
        courier.join().unwrap();
    });
}
