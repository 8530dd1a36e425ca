//! One behavioural suite for every transport.
//!
//! A transport says how to make a pair of connected endpoints ([`Harness`]) and instantiates the
//! suite with [`conformance_suite!`](crate::conformance_suite); each case becomes a test. What
//! the cases check is the contract of [`Endpoint`]: nothing here knows how a
//! transport moves bytes.
//!
//! Both ends live in the test's thread and are polled in turn, because whatever needs one end to
//! block or to have a thread of its own breaks the contract. Only the case about waking a parked
//! thread has one.

mod failure;
mod flow;
mod rig;
mod transfer;

use std::fmt;

use crate::{Capabilities, Endpoint};

pub use failure::{
    abandon_releases_every_slice, departed_peer_is_reported_as_orderly,
    departing_peer_is_heard_to_the_end, drop_with_operations_in_flight,
    killed_peer_is_reported_and_slices_come_back, length_mismatch_fails_the_operation_only,
    signature_mismatch_fails_the_operation_only,
};
pub use flow::{
    eager_limit_holds_and_sender_waits, empty_messages_are_bounded_too,
    ended_sends_leave_the_queue, full_queue_gives_post_back, later_message_first_does_not_deadlock,
    opposite_orders_of_two_communicators, parked_thread_is_woken,
};
pub use transfer::{
    any_order_of_posts, channels_are_given_up, early_message_is_announced_once,
    exact_bytes_of_every_size, idle_endpoints_are_inactive, many_messages_in_flight,
    one_way_stream, payload_is_counted_exactly, two_way_stream, wire_bytes_are_counted,
};

/// How to get connected endpoints of a transport.
pub trait Harness {
    /// What is tested, with everything that is needed to run a failure again, such as a seed.
    fn describe(&self) -> String;

    /// What the transport says of itself.
    fn capabilities(&self) -> Capabilities;

    /// Two ends of a new connection: rank 0's endpoint to rank 1 and rank 1's endpoint to rank 0.
    fn pair(&self) -> [Box<dyn Endpoint>; 2];

    /// Called whenever polling both ends moved nothing: a virtual clock goes on, a real thread
    /// yields.
    fn idle(&self) {
        std::thread::yield_now();
    }

    /// A connection to a peer that can be killed, where the harness can do that.
    fn doomed(&self) -> Option<Doomed> {
        None
    }

    /// Bytes of the header that precedes each message of up to
    /// [`EAGER_BYTES_MAX`](crate::EAGER_BYTES_MAX) bytes on the wire; `None` if the transport has
    /// no wire.
    fn header_bytes(&self) -> Option<u64> {
        None
    }

    /// The largest message that the suite shall send, in bytes. Lower it for a harness that is
    /// slow by design.
    fn message_bytes_max(&self) -> usize {
        16 << 20
    }
}

/// The sizes that a harness wants to send.
fn up_to_the_largest<const N: usize>(
    harness: &dyn Harness,
    sizes: [usize; N],
) -> impl Iterator<Item = usize> {
    let largest = harness.message_bytes_max();
    sizes.into_iter().filter(move |size| *size <= largest)
}

/// A peer that will be killed.
pub struct Doomed {
    /// The survivor's endpoint.
    pub endpoint: Box<dyn Endpoint>,
    /// Lets the doomed peer do its part, if it is not a process that does so by itself. It must
    /// have posted what [`doomed_posts`] says.
    pub drive: Box<dyn FnMut()>,
    /// Kills it: nothing that it would do at an orderly end may happen.
    pub kill: Box<dyn FnOnce()>,
}

impl fmt::Debug for Doomed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doomed").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

pub use failure::{DOOMED_BYTES, doomed_posts};

/// Gives the names of all cases, in order, to the macro of this crate that is named first, after its
/// other arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($then:ident $($arguments:tt)*) => {
        $crate::$then! {
            $($arguments)*
            exact_bytes_of_every_size,
            any_order_of_posts,
            many_messages_in_flight,
            one_way_stream,
            two_way_stream,
            channels_are_given_up,
            early_message_is_announced_once,
            idle_endpoints_are_inactive,
            wire_bytes_are_counted,
            payload_is_counted_exactly,
            full_queue_gives_post_back,
            ended_sends_leave_the_queue,
            eager_limit_holds_and_sender_waits,
            empty_messages_are_bounded_too,
            later_message_first_does_not_deadlock,
            opposite_orders_of_two_communicators,
            parked_thread_is_woken,
            signature_mismatch_fails_the_operation_only,
            length_mismatch_fails_the_operation_only,
            abandon_releases_every_slice,
            departing_peer_is_heard_to_the_end,
            departed_peer_is_reported_as_orderly,
            drop_with_operations_in_flight,
            killed_peer_is_reported_and_slices_come_back,
        }
    };
}

/// Makes a module of tests: every case of the suite over one harness.
///
/// ```ignore
/// conformance_suite!(ipv4, TcpHarness { address: Ipv4Addr::LOCALHOST.into(), sockets: 1 });
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($module:ident, $harness:expr) => {
        $crate::conformance_cases! { conformance_suite @cases $module, $harness, }
    };
    (@cases $module:ident, $harness:expr, $($case:ident,)*) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::conformance::$case(&$harness);
                }
            )*
        }
    };
}

/// See [`CASES`].
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_table {
    ($($case:ident,)*) => { &[$((stringify!($case), $case),)*] };
}

/// One case of the suite.
pub type Case = fn(&dyn Harness);

/// Every case with its name, for programs that run the suite where there is no test runner.
pub const CASES: &[(&str, Case)] = crate::conformance_cases! { conformance_table };
