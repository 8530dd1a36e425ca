use paceline_rendezvous::frame::{
    Decoder, Encoder, Frame, FrameError, FrameKind, HEADER_LEN, MAC_LEN, PAYLOAD_BYTES_MAX,
};
use paceline_rendezvous::hello::MacKey;
use paceline_rendezvous::message::{Abort, MessageError, Progress, ToCoordinator, ToRank};
use paceline_rendezvous::{OperationReport, OperationState};
use proptest::prelude::*;

fn key() -> MacKey {
    MacKey::from_bytes([5; 32])
}

fn encode(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut encoder = Encoder::new(key());
    let mut wire = Vec::new();
    for payload in payloads {
        encoder.encode(FrameKind(9), payload, &mut wire).unwrap();
    }
    wire
}

fn drain(decoder: &mut Decoder) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.pull()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn reports() -> impl Strategy<Value = OperationReport> {
    let ranks = || prop::collection::vec(any::<u32>(), 0..5);
    let state = prop_oneof![
        ranks().prop_map(|on| OperationState::Waiting { on }),
        ranks().prop_map(|on| OperationState::TimedOut { on }),
        (".*", any::<Option<u32>>())
            .prop_map(|(reason, culprit)| OperationState::Failed { reason, culprit }),
    ];
    let members = prop::option::of(prop::collection::vec(any::<u32>(), 0..5));
    let number = (any::<u32>(), any::<u32>(), members, any::<u64>());
    let what = (".*", any::<Option<String>>(), ".*", ".*");
    (number, what, any::<u64>(), state, any::<u64>()).prop_map(
        |((context, communicator, members, op_seq), what, bytes, state, since_ms)| {
            let (kind, name, details, signature) = what;
            OperationReport {
                context,
                communicator,
                members,
                op_seq,
                kind,
                name,
                details,
                signature,
                bytes,
                state,
                since_ms,
                idle_ms: since_ms / 2,
            }
        },
    )
}

fn to_coordinator() -> impl Strategy<Value = ToCoordinator> {
    let value = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        (any::<u64>(), ".*", value).prop_map(|(request, key, value)| ToCoordinator::Set {
            request,
            key,
            value
        }),
        (any::<u64>(), ".*").prop_map(|(request, key)| ToCoordinator::Get { request, key }),
        any::<u64>().prop_map(|request| ToCoordinator::Cancel { request }),
        (any::<u32>(), reports())
            .prop_map(|(epoch, report)| ToCoordinator::Report { epoch, report }),
        any::<(u32, u64)>()
            .prop_map(|(epoch, timeout_ms)| ToCoordinator::NextEpoch { epoch, timeout_ms }),
        (".*", any::<u32>()).prop_map(|(host, pid)| ToCoordinator::Introduction { host, pid }),
        prop::collection::vec(any::<(u32, u32, u64)>(), 0..5).prop_map(|progress| {
            let progress = progress.into_iter().map(|(context, communicator, entered)| Progress {
                context,
                communicator,
                entered,
            });
            ToCoordinator::Heartbeat { epoch: 3, progress: progress.collect() }
        }),
        Just(ToCoordinator::Goodbye),
    ]
}

fn to_rank() -> impl Strategy<Value = ToRank> {
    let value = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        any::<u64>().prop_map(|request| ToRank::Stored { request }),
        (any::<u64>(), value).prop_map(|(request, value)| ToRank::Value { request, value }),
        (any::<u64>(), ".*").prop_map(|(request, reason)| ToRank::Refused { request, reason }),
        (any::<u32>(), any::<Option<u32>>(), ".*").prop_map(|(epoch, culprit, reason)| {
            ToRank::Abort { abort: Abort { epoch, culprit, timed_out: epoch % 2 == 1, reason } }
        }),
        (any::<(u32, u32)>(), any::<Option<u32>>(), ".*").prop_map(
            |((context, communicator), culprit, reason)| {
                let abort = Abort { epoch: 0, culprit, timed_out: true, reason };
                ToRank::GroupAbort { context, communicator, abort }
            }
        ),
        any::<u32>().prop_map(|epoch| ToRank::NewEpoch { epoch }),
        (any::<u32>(), any::<Option<u32>>(), ".*").prop_map(|(epoch, culprit, reason)| {
            ToRank::NoEpoch { abort: Abort { epoch, culprit, timed_out: false, reason } }
        }),
        Just(ToRank::Farewell),
    ]
}

fn control(payload: Vec<u8>) -> Frame {
    Frame { kind: FrameKind::CONTROL, payload }
}

proptest! {
    #[test]
    fn frames_survive_any_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        pieces in prop::collection::vec(1..200_usize, 1..20),
    ) {
        let wire = encode(&payloads);
        let mut decoder = Decoder::new(key());
        let mut received = Vec::new();
        let (mut rest, mut sizes) = (wire.as_slice(), pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            decoder.push(piece);
            received.extend(drain(&mut decoder).unwrap());
            rest = tail;
        }
        prop_assert_eq!(decoder.buffered_bytes(), 0);
        let expected: Vec<_> = payloads
            .into_iter()
            .map(|payload| Frame { kind: FrameKind(9), payload })
            .collect();
        prop_assert_eq!(received, expected);
    }

    #[test]
    fn any_flipped_bit_is_noticed(
        payload in prop::collection::vec(any::<u8>(), 0..100),
        position in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let mut wire = encode(&[payload, vec![1, 2, 3]]);
        let position = position.index(wire.len());
        wire[position] ^= 1 << bit;
        let mut decoder = Decoder::new(key());
        decoder.push(&wire);
        // A longer length may leave the decoder waiting; it must not give the frame out.
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = decoder.pull() {
            frames.push(frame);
        }
        prop_assert!(frames.len() < 2);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::new(key());
        decoder.push(&bytes);
        prop_assert!(!matches!(decoder.pull(), Ok(Some(_))));
        let frame = control(bytes);
        let _ = ToCoordinator::decode(&frame);
        let _ = ToRank::decode(&frame);
    }

    #[test]
    fn messages_survive(up in to_coordinator(), down in to_rank()) {
        prop_assert_eq!(&ToCoordinator::decode(&control(up.encode())).unwrap(), &up);
        prop_assert_eq!(&ToRank::decode(&control(down.encode())).unwrap(), &down);
    }
}

#[test]
fn repeated_reordered_and_dropped_frames_are_refused() {
    let wire = encode(&[vec![0; 10], vec![1; 10], vec![2; 10]]);
    let frames: Vec<_> = wire.chunks_exact(HEADER_LEN + 10 + MAC_LEN).collect();
    for (order, expected, actual) in [([0, 0], 1, 0), ([1, 0], 0, 1), ([0, 2], 1, 2)] {
        let mut decoder = Decoder::new(key());
        order.iter().for_each(|index| decoder.push(frames[*index]));
        let error = drain(&mut decoder).unwrap_err();
        assert_eq!(error, FrameError::OutOfOrder { expected, actual });
        // The stream stays refused.
        decoder.push(frames[1]);
        assert_eq!(decoder.pull(), Err(error));
        assert_eq!(decoder.buffered_bytes(), 0);
    }
}

#[test]
fn the_other_direction_or_another_key_is_forged() {
    let mut decoder = Decoder::new(MacKey::from_bytes([6; 32]));
    decoder.push(&encode(&[vec![1]]));
    assert_eq!(decoder.pull(), Err(FrameError::Forged { sequence: 0 }));
}

#[test]
fn oversize_is_refused_on_both_sides_before_it_is_buffered() {
    let mut encoder = Encoder::new(key());
    let mut wire = Vec::new();
    let too_long = vec![0; PAYLOAD_BYTES_MAX + 1];
    let bytes = too_long.len() as u64;
    assert_eq!(
        encoder.encode(FrameKind(1), &too_long, &mut wire),
        Err(FrameError::Oversize { bytes })
    );
    assert_eq!(wire, b"");
    encoder.encode(FrameKind(1), &too_long[1..], &mut wire).unwrap();
    let mut decoder = Decoder::new(key());
    decoder.push(&wire);
    assert_eq!(decoder.pull().unwrap().unwrap().payload.len(), PAYLOAD_BYTES_MAX);

    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    decoder.push(&header);
    assert_eq!(decoder.pull(), Err(FrameError::Oversize { bytes: u64::from(u32::MAX) }));
}

#[test]
fn strange_messages_are_refused() {
    let heartbeat = ToCoordinator::Heartbeat { epoch: 0, progress: Vec::new() }.encode();
    let other_kind = Frame { kind: FrameKind(2), payload: heartbeat };
    assert!(matches!(
        ToCoordinator::decode(&other_kind),
        Err(MessageError::UnexpectedKind { kind: 2 })
    ));
    let strange = [
        r#"{"type":"launch_missiles"}"#,
        r#"{"type":"get","request":1}"#,
        r#"{"type":"get","request":1,"key":"k","more":1}"#,
        r#"{"type":"set","request":1,"key":"k","value":"abc"}"#,
        r#"{"type":"set","request":1,"key":"k","value":"zz"}"#,
        "[[[[[[[[",
        "",
    ];
    for text in strange {
        let result = ToCoordinator::decode(&control(text.as_bytes().to_vec()));
        assert!(matches!(result, Err(MessageError::Decode { .. })), "{text}: {result:?}");
    }
}
