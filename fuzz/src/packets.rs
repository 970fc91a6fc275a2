//! Arbitrary frames through the four programs, over arbitrary tables.
//!
//! No program panics. What it passes on is unchanged. What it translates keeps its length and its right checksums, and
//! what comes back is the reverse of what was sent.

mod frames;
mod sound;
mod world;

pub use sound::is_sound;

use arbitrary::{Result, Unstructured};
use signpost_common::{
    Cause, Port,
    flow::{FlowKey, FlowValue},
};
use signpost_ebpf::{
    Verdict, from_pod, from_wire,
    host::{Frame, Memory},
    to_pod, to_wire, verdict,
};

/// What is sent there may be a question, and be answered as one.
const DNS: u16 = 53;

/// The programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    FromPod,
    ToPod,
    FromWire,
    ToWire,
}

impl Program {
    /// The one that sees the answers at the same interface.
    const fn opposite(self) -> Self {
        match self {
            Self::FromPod => Self::ToPod,
            Self::ToPod => Self::FromPod,
            Self::FromWire => Self::ToWire,
            Self::ToWire => Self::FromWire,
        }
    }

    const fn direction(self) -> u8 {
        match self {
            Self::FromPod => FlowKey::FROM_POD,
            Self::ToPod => FlowKey::TO_POD,
            Self::FromWire => FlowKey::FROM_WIRE,
            Self::ToWire => FlowKey::TO_WIRE,
        }
    }

    fn run(self, frame: &mut Frame, tables: &Memory) -> std::result::Result<Verdict, Cause> {
        match self {
            Self::FromPod => from_pod(frame, tables),
            Self::ToPod => to_pod(frame, tables),
            Self::FromWire => from_wire(frame, tables),
            Self::ToWire => to_wire(frame, tables),
        }
    }
}

/// Runs one input: tables, then packets one after the other.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    // An input that ends early is as good as any.
    let _ = packets(&mut input);
}

fn packets(input: &mut Unstructured<'_>) -> Result<()> {
    let mut tables = world::tables(input)?;
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        tables.now += input.int_in_range(0..=5)? * 1_000_000_000;
        let program = *input.choose(&[
            Program::FromPod,
            Program::FromPod,
            Program::FromWire,
            Program::FromWire,
            Program::ToPod,
            Program::ToWire,
        ])?;
        let frame = frames::frame(input)?;
        look_at(program, &tables, frame);
    }
    Ok(())
}

fn look_at(program: Program, tables: &Memory, before: Vec<u8>) {
    let mut frame = Frame(before.clone());
    let said = program.run(&mut frame, tables);
    let after = frame.0;
    match said {
        Ok(Verdict::Continue) => assert_eq!(after, before, "{program:?} changed what it passes on"),
        Err(cause) => assert!(
            after == before || verdict::spoils(cause),
            "{program:?} changed what it passes on because of {cause:?}"
        ),
        Ok(Verdict::Drop(_)) => {}
        Ok(Verdict::Forwarded(cause)) => panic!("{cause:?}: a frame in memory has no way"),
        // What of a hairpin flow goes back to its pod is translated as any.
        Ok(
            Verdict::Rewritten(cause)
            | Verdict::SendBack(
                cause @ (Cause::Hairpin | Cause::IcmpTranslated | Cause::FragmentTranslated),
            ),
        ) => {
            assert_eq!(after.len(), before.len(), "{program:?} {cause:?}");
            stays_right(program, cause, &before, &after);
            if let Some(flow) = flow(program, tables, &before)
                && flow.flags & FlowValue::FORWARD != 0
            {
                let hairpin = flow.flags & FlowValue::HAIRPIN != 0;
                let way_back = if hairpin { program } else { program.opposite() };
                comes_back(way_back, tables, &before, &after);
            }
        }
        Ok(Verdict::SendBack(cause) | Verdict::Answered(cause)) => {
            assert!(is_sound(&after), "{program:?} {cause:?}: {after:02x?}");
            if let (Some(asked), Some(told)) = (sound::ends(&before), sound::ends(&after)) {
                assert_eq!(asked.source.ip(), told.destination.ip(), "{cause:?}");
            }
        }
    }
}

fn stays_right(program: Program, cause: Cause, before: &[u8], after: &[u8]) {
    assert!(
        is_sound(after) || !is_sound(before),
        "{program:?} {cause:?} broke a checksum: {before:02x?} became {after:02x?}"
    );
}

/// What is recorded of a packet's flow.
fn flow(program: Program, tables: &Memory, frame: &[u8]) -> Option<FlowValue> {
    // Fragments and packets with options have no reverse here.
    sound::reversed(frame)?;
    let ends = sound::ends(frame)?;
    let key = FlowKey {
        source: ends.source.ip().into(),
        destination: ends.destination.ip().into(),
        source_port: Port::new(ends.source.port()),
        destination_port: Port::new(ends.destination.port()),
        protocol: ends.protocol,
        direction: program.direction(),
        pad: 0,
    };
    tables.flows.borrow().get(&key).copied()
}

/// What answers a packet that was translated is translated to the answer to what was sent.
fn comes_back(way_back: Program, tables: &Memory, before: &[u8], after: &[u8]) {
    let Some(wanted) = sound::reversed(before) else {
        return;
    };
    // Behind an interface at which the packet is masqueraded, the backend sees another client.
    let mut seen = after.to_vec();
    let leaves_by = [Program::ToPod, Program::ToWire]
        .into_iter()
        .find(|program| {
            let flow = flow(*program, tables, after);
            flow.is_some_and(|flow| flow.flags & FlowValue::MASQUERADE != 0)
        });
    if let Some(program) = leaves_by {
        let mut frame = Frame(seen);
        match program.run(&mut frame, tables) {
            Ok(Verdict::Rewritten(cause)) => stays_right(program, cause, after, &frame.0),
            // Without an address or a port it may not leave.
            _ => return,
        }
        seen = frame.0;
    }
    let Some(reply) = sound::reversed(&seen) else {
        return;
    };
    let mut frame = Frame(reply);
    if sound::ends(&frame.0).is_some_and(|ends| ends.destination.port() == DNS) {
        return;
    }
    if let Some(program) = leaves_by {
        let said = program.opposite().run(&mut frame, tables);
        assert!(said.is_ok(), "the answer to a masqueraded packet: {said:?}");
    }
    let said = way_back.run(&mut frame, tables);
    assert_eq!(
        sound::ends(&frame.0),
        sound::ends(&wanted),
        "{way_back:?} said {said:?} to the answer to what became {after:02x?}"
    );
    assert!(
        is_sound(&frame.0) || !is_sound(&wanted),
        "{way_back:?} {said:?}"
    );
}
