//! Every rank sends to every other at once, and checks what comes.

use std::time::{Duration, Instant};

use paceline_transports::{Endpoint, Event, MessageId, RecvPost, Region, SendPost, Signature};

const SIZES: [usize; 6] = [0, 1, 64, 4097, 70_000, 3 << 20];

/// The bytes that `from` sends to `to`.
fn content(from: u32, to: u32, round: u32, index: usize) -> impl Fn(usize) -> u8 {
    let seed = from as usize * 31 + to as usize * 7 + round as usize * 3 + index;
    move |at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7).to_le_bytes()[0]
}

pub(crate) fn exchange(mut endpoints: Vec<Option<Box<dyn Endpoint>>>, rank: u32, round: u32) {
    let whole: usize = SIZES.iter().sum();
    let mut memory = Vec::new();
    let mut open = 0;
    for endpoint in endpoints.iter_mut().flatten() {
        let peer = endpoint.peer();
        let out = Region::allocate(whole).expect("memory for the test");
        let into = Region::allocate(whole).expect("memory for the test");
        let mut start = 0;
        for (index, size) in SIZES.into_iter().enumerate() {
            let range = start..start + size;
            start += size;
            // SAFETY: nobody else has a slice of it yet.
            let mut fill = unsafe { out.slice_mut(range.clone()) };
            let byte = content(rank, peer, round, index);
            fill.bytes_mut(0..size).iter_mut().enumerate().for_each(|(at, to)| *to = byte(at));
            drop(fill);
            let tag = u32::try_from(index).expect("a small number");
            let id = MessageId { communicator: 1, tag, op_seq: 0 };
            let signature = Signature::default();
            // SAFETY: nobody writes to it any more.
            let slice = unsafe { out.slice(range.clone()) };
            endpoint.post_send(SendPost { token: 0, id, signature, slice }).expect("room");
            // SAFETY: it is looked at when everything has ended.
            let slice = unsafe { into.slice_mut(range) };
            endpoint.post_recv(RecvPost { token: 1, id, signature, slice }).expect("room");
            open += 2;
        }
        memory.push((peer, into));
    }
    let give_up = Instant::now() + Duration::from_secs(120);
    let mut events = Vec::new();
    while open > 0 {
        assert!(Instant::now() < give_up, "{open} posts do not end");
        let mut moved = false;
        for endpoint in endpoints.iter_mut().flatten().filter(|endpoint| endpoint.is_active()) {
            moved |= endpoint.poll(&mut events).expect("nobody leaves before all has ended");
        }
        for event in events.drain(..) {
            match event {
                Event::Sent { .. } | Event::Received { .. } => open -= 1,
                Event::Early { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        if !moved {
            std::thread::yield_now();
        }
    }
    for (peer, into) in memory {
        let mut start = 0;
        for (index, size) in SIZES.into_iter().enumerate() {
            // SAFETY: the receives have ended.
            let slice = unsafe { into.slice(start..start + size) };
            start += size;
            let byte = content(peer, rank, round, index);
            let wrong = slice.bytes(0).iter().enumerate().position(|(at, is)| *is != byte(at));
            assert_eq!(wrong, None, "{size} bytes from rank {peer} to rank {rank}");
        }
    }
}
