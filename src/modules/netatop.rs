//! What each process sends and receives.

use crate::catalog::From;
use crate::catalog::Kind;
use crate::catalog::Metric;
use crate::catalog::Module;
use crate::catalog::Opt;
use crate::catalog::Over;
use crate::catalog::Plain;
use crate::catalog::Polled;
use crate::catalog::Programs;
use crate::catalog::Rows;
use crate::catalog::Shape;
use crate::pmda::Semantics;
use crate::pmda::Type;
use crate::pmda::Units;

const COUNTED: &str = "Counted between the process and its sockets: what the program asked to send or was given, \
    over IPv4 and IPv6, without headers and retransmissions. TCP means IPPROTO_TCP, UDP IPPROTO_UDP: sockets of MPTCP \
    and SCTP are not counted.";
const CALLS: &str = "Calls that moved data, as pmdabpf counts under this name, not packets on the wire. Calls that \
    failed, that only looked (MSG_PEEK) and reads that found the end of a stream are not counted; an empty datagram is.";
const OLDER: &str = "Before Linux 6.3 at inet_sendmsg and its like, from then on at sock_send_length and \
    sock_recv_length.";
const PROCESS: &str = "Those of all processes together, with those that have ended, are in bpf.net; a process gets its \
    row at its first call. Calls that the kernel leaves out are counted in bpf.module.lost.";
const ALL: &str = "All processes since the module was loaded, also those that have ended or have no row.";
const OTHER: &str = "Processes that found no row, since more living ones than option process_count says had one. Part of bpf.net.tcp and \
    bpf.net.udp too.";

const fn traffic(
    item: u16,
    name: &'static str,
    units: Units,
    from: From,
    oneline: &'static str,
    help: &'static [&'static str],
) -> Metric {
    Metric::Plain(Plain {
        item,
        name,
        ty: Type::U64,
        semantics: Semantics::Counter,
        units,
        from,
        oneline,
        help,
        protected: false,
    })
}

const fn of_process(field: &'static str) -> From {
    From::Process(field)
}

const fn of_host(field: &'static str) -> From {
    From::Field(field, Over::Host)
}

/// Eight metrics, calls and bytes, each way, of TCP and UDP, for each line.
macro_rules! traffic_of {
    ($(($first:literal, $name:literal, $from:ident $prefix:literal, $whose:literal, $help:expr)),* $(,)?) => {
        &[$(
            traffic_of!(@ $first, $name, "tcp.send.packets", Count, $from $prefix "tcp_send_packets", "Sends over TCP", $whose, CALLS, $help),
            traffic_of!(@ $first + 1, $name, "tcp.send.bytes", Byte, $from $prefix "tcp_send_bytes", "Bytes sent over TCP", $whose, COUNTED, $help),
            traffic_of!(@ $first + 2, $name, "tcp.recv.packets", Count, $from $prefix "tcp_recv_packets", "Receives over TCP", $whose, CALLS, $help),
            traffic_of!(@ $first + 3, $name, "tcp.recv.bytes", Byte, $from $prefix "tcp_recv_bytes", "Bytes received over TCP", $whose, COUNTED, $help),
            traffic_of!(@ $first + 4, $name, "udp.send.packets", Count, $from $prefix "udp_send_packets", "Sends over UDP", $whose, CALLS, $help),
            traffic_of!(@ $first + 5, $name, "udp.send.bytes", Byte, $from $prefix "udp_send_bytes", "Bytes sent over UDP", $whose, COUNTED, $help),
            traffic_of!(@ $first + 6, $name, "udp.recv.packets", Count, $from $prefix "udp_recv_packets", "Receives over UDP", $whose, CALLS, $help),
            traffic_of!(@ $first + 7, $name, "udp.recv.bytes", Byte, $from $prefix "udp_recv_bytes", "Bytes received over UDP", $whose, COUNTED, $help),
        )*]
    };
    (@ $item:expr, $name:literal, $leaf:literal, $units:ident, $from:ident $prefix:literal $field:literal,
        $what:literal, $whose:literal, $counted:expr, $help:expr) => {
        traffic(
            $item,
            concat!($name, ".", $leaf),
            Units::$units,
            $from(concat!($prefix, $field)),
            concat!($what, " ", $whose),
            &[$counted, $help, OLDER],
        )
    };
}

/// The table.
pub static MODULE: Module = Module {
    name: "netatop",
    summary: "Network traffic of each process: TCP and UDP, IPv4 and IPv6",
    default: true,
    options: &[
        Opt {
            name: "process_count",
            kind: Kind::Number { default: Some(4096), min: 1, max: 65_536 },
            help: "Processes with a row of their own; the rest is added up in bpf.net.other",
        },
        Opt {
            name: "linger",
            kind: Kind::Number { default: Some(15), min: 1, max: 3600 },
            help: "Seconds for which a process that ended is shown",
        },
    ],
    metrics: traffic_of![
        (0, "proc.net", of_process "traffic.", "by each process", PROCESS),
        (8, "net", of_host "all.", "by all processes", ALL),
        (16, "net.other", of_host "other.", "by processes without a row", OTHER),
    ],
    shape: Shape::Polled(Polled {
        programs: Programs {
            object: crate::object!("netatop"),
            hooks: &[
                &["on_exit"],
                &[
                    "on_send_length on_recv_length on_inet_sendpage",
                    "on_send_length on_recv_length",
                    "on_inet_sendmsg on_inet6_sendmsg on_inet_recvmsg on_inet6_recvmsg on_inet_sendpage",
                ],
            ],
            optional: &[],
            rows: Rows { map: "rows", layout: "netatop_row", keys: None },
        },
        map: "processes",
        sized: &["indices"],
        unused: "unused",
        layout: "netatop_process",
        option: "process_count",
        linger: "linger",
        serial: 2,
    }),
};
