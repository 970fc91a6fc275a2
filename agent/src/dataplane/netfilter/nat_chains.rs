//! NAT chains of nftables that do nothing. A kernel without any NAT chain translates no packet any more, also none of a
//! connection that was translated so far, and without any rule that asks connection tracking it tracks none; where the
//! last of them go, these keep such connections alive.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, InetHookNumber, NfTablesMessage,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};

use super::{batch, exchange, family};
use crate::model::Family;

/// The table of the empty chains, one a family.
pub const KEPT: &str = "signpost-nat";

/// Name, hook and priority of the chains: one on each hook at which the kernel translates, where NAT usually is.
const CHAINS: [(&str, InetHookNumber, i32); 4] = [
    ("prerouting", InetHookNumber::PreRouting, -100),
    ("input", InetHookNumber::LocalIn, 100),
    ("output", InetHookNumber::LocalOut, -100),
    ("postrouting", InetHookNumber::PostRouting, 100),
];

/// Whether there is a table of this name.
///
/// # Errors
/// Where the kernel does not allow the question, or has no nftables.
pub fn has_table(of: Family, table: &str) -> io::Result<bool> {
    exists(of, NfTablesMessage::GetTable(named(table)))
}

/// Whether a table has a chain of this name.
///
/// # Errors
/// As [`has_table`].
pub fn has_chain(of: Family, table: &str, chain: &str) -> io::Result<bool> {
    let attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(chain.to_owned()),
    ];
    exists(of, NfTablesMessage::GetChain(ChainMessage { attributes }))
}

/// Makes the empty chains where they are missing.
///
/// # Errors
/// Where the kernel does not allow it, or has no nftables.
pub fn keep(of: Family) -> io::Result<()> {
    change(of, kept())
}

/// Makes the empty chains and deletes a table with all that is in it, in one step.
///
/// # Errors
/// Where there is no such table, or the kernel does not allow it.
pub fn keep_instead_of(of: Family, table: &str) -> io::Result<()> {
    let mut messages = kept();
    messages.push(NfTablesMessage::DeleteTable(named(table)));
    change(of, messages)
}

/// Deletes the empty chains.
///
/// # Errors
/// Where there are none, or the kernel does not allow it.
pub fn let_go(of: Family) -> io::Result<()> {
    change(of, vec![NfTablesMessage::DeleteTable(named(KEPT))])
}

fn kept() -> Vec<NfTablesMessage> {
    let chains = CHAINS.map(|(name, hook, priority)| {
        NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(KEPT.to_owned()),
                ChainAttribute::Name(name.to_owned()),
                ChainAttribute::Hook(vec![
                    Hook::Number(hook.into()),
                    Hook::Priority(priority.cast_unsigned()),
                ]),
                ChainAttribute::Type("nat".to_owned()),
            ],
        })
    });
    let mut messages = vec![NfTablesMessage::NewTable(named(KEPT))];
    messages.extend(chains);
    messages.push(asks_connection_tracking(CHAINS[0].0));
    messages
}

/// A rule that loads the state of a connection, and does nothing with it (`NFTA_CT_DREG`, `NFTA_CT_KEY` of
/// linux/netfilter/nf_tables.h).
fn asks_connection_tracking(chain: &str) -> NfTablesMessage {
    const TO_REGISTER: (u16, u32) = (1, 1);
    const THE_STATE: (u16, u32) = (2, 0);
    let attributes = [TO_REGISTER, THE_STATE]
        .map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()));
    let load = Expressions::Other {
        expression_type: "ct".to_owned(),
        attributes: attributes.to_vec(),
    };
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(KEPT.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(vec![load.into()]),
        ],
    })
}

fn named(table: &str) -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(table.to_owned())],
    }
}

fn exists(of: Family, question: NfTablesMessage) -> io::Result<bool> {
    exchange(family(of), question)
}

/// Carries out all changes or none.
fn change(of: Family, messages: Vec<NfTablesMessage>) -> io::Result<()> {
    batch::carry_out(messages.into_iter().map(|message| {
        let flags = match message {
            NfTablesMessage::NewTable(_)
            | NfTablesMessage::NewChain(_)
            | NfTablesMessage::NewRule(_) => NLM_F_CREATE,
            _ => 0,
        };
        (of, flags, message)
    }))
}
