//! The keys of the gateway file.

use super::Default::{Integer as Int, None as Nothing, Required, Said, Text as Word, Texts};
use super::Kind::{Choice, Integer, Name, Table, Tables, Text, TextList};
use super::{Key, TableDef, U32_MAX, key, refused};

const IN_MAPPING: &str = "move it into a mapping file, which `mappings = [\"mappings/*.toml\"]` in [gateway] finds";

pub(in crate::config) static GATEWAY_FILE: TableDef = TableDef {
    title: "the gateway file",
    keys: &[
        key("gateway", Table(&GATEWAY), Nothing, "", "The gateway itself. Left out: every default."),
        key("broker", Table(&BROKER), Nothing, "", "The local MQTT broker. Left out: none."),
        key("uplink", Tables(&UPLINK), Nothing, "", "Connections to brokers upstream."),
        key("store", Table(&STORE), Nothing, "", "The store on disk."),
        key("status", Table(&STATUS), Nothing, "", "Status page and metrics. Left out: none."),
        refused("modbus", "`[[modbus]]` does not belong in the gateway file", IN_MAPPING),
        refused("can", "CAN is not part of this build yet", "remove the table"),
        refused("test", "`[[test]]` does not belong in the gateway file", IN_MAPPING),
        refused("home_assistant", "Home Assistant discovery is not part of this build yet", "remove the table"),
        refused("sparkplug", "Sparkplug B is not part of this build yet", "remove the table"),
    ],
};

static GATEWAY: TableDef = TableDef {
    title: "[gateway]",
    keys: &[
        key(
            "id",
            Text,
            Said("the host name"),
            "\"pi-1\"",
            "Letters, digits, - and _. {gateway} in topics; the uplinks' client id.",
        ),
        key(
            "mappings",
            TextList,
            Texts(&["mappings/*.toml"]),
            "[\"mappings/*.toml\"]",
            "Mapping files, relative to this file; * and ? stand for parts of a name.",
        ),
        key(
            "state_dir",
            Text,
            Said("$STATE_DIRECTORY, else ./state"),
            "\"/var/lib/fieldgate\"",
            "Folder of the store, relative to this file.",
        ),
    ],
};

static BROKER: TableDef = TableDef {
    title: "[broker]",
    keys: &[
        key("listener", Tables(&LISTENER), Nothing, "", "Where clients connect."),
        key("user", Tables(&USER), Nothing, "", "Who may connect with a name."),
        key("anonymous", Table(&ANONYMOUS), Nothing, "", "What clients without a name may do. Left out: not connect."),
        key("max_connections", Integer(1, 100_000), Int(1_000), "1000", "Clients connected at once."),
        key(
            "max_keep_alive_secs",
            Integer(0, 65_535),
            Int(0),
            "0",
            "The longest keep alive; MQTT 5 clients that ask for more are told it. 0: what the client asks.",
        ),
        key(
            "max_packet_bytes",
            Integer(128, 268_435_455),
            Int(262_144),
            "262144",
            "The largest MQTT packet that is taken.",
        ),
        key(
            "max_queued_bytes",
            Integer(1_024, i64::MAX),
            Int(64 << 20),
            "67108864",
            "For each durable session, on disk.",
        ),
        key(
            "max_outbound_bytes",
            Integer(4_096, 1 << 30),
            Int(16 << 20),
            "16777216",
            "For each connection, in memory: what the client has not read yet. A quarter of it waiting, publishers of what it gets wait too.",
        ),
        key(
            "max_outbound_total_bytes",
            Integer(4_096, 1 << 36),
            Int(64 << 20),
            "67108864",
            "For all connections together, in memory: what they have not read yet.",
        ),
        key(
            "max_in_flight",
            Integer(1, 65_535),
            Int(100),
            "100",
            "QoS 1 and 2 messages under way to one client, and from it.",
        ),
        key("max_subscriptions_per_client", Integer(1, 100_000), Int(1_000), "1000", "Subscriptions of one client."),
        key("max_topic_levels", Integer(1, 1_000), Int(64), "64", "Levels of a topic or filter."),
        key("max_retained_messages", Integer(0, 100_000_000), Int(100_000), "100000", "Retained messages kept."),
        key("max_retained_bytes", Integer(0, i64::MAX), Int(64 << 20), "67108864", "Bytes of retained messages kept."),
        key("max_sessions", Integer(1, 1_000_000), Int(10_000), "10000", "Durable and connected sessions together."),
        key(
            "max_connection_rate",
            Integer(1, 1_000_000),
            Int(500),
            "500",
            "New connections a second, over all addresses.",
        ),
        key(
            "session_expiry_secs",
            Integer(0, U32_MAX),
            Int(86_400),
            "86400",
            "The longest that a session outlives its connection.",
        ),
        key("connect_timeout_secs", Integer(1, 3_600), Int(10), "10", "From the connection to its CONNECT packet."),
    ],
};

static LISTENER: TableDef = TableDef {
    title: "[[broker.listener]]",
    keys: &[
        key("bind", Text, Required, "\"127.0.0.1:1883\"", "Address and port; [IPv6] in brackets."),
        key("transport", Choice(&["tcp", "websocket"]), Word("tcp"), "\"websocket\"", "MQTT on TCP or on WebSocket."),
        key("tls", Table(&LISTENER_TLS), Nothing, "", "Left out: no TLS."),
    ],
};

static LISTENER_TLS: TableDef = TableDef {
    title: "tls of a listener",
    keys: &[
        key("cert", Text, Required, "\"server.pem\"", "The server's certificate chain, PEM, relative to this file."),
        key("key", Text, Required, "\"server.key\"", "Its private key, PEM."),
        key(
            "client_ca",
            Text,
            Nothing,
            "\"ca.pem\"",
            "Clients must show a certificate that this one signed; its CN is the user.",
        ),
    ],
};

static USER: TableDef = TableDef {
    title: "[[broker.user]]",
    keys: &[
        key("name", Name, Required, "\"dashboard\"", "The user's name."),
        key(
            "password_hash",
            Text,
            Nothing,
            "\"$argon2id$…\"",
            "What `fieldgate passwd` prints. Left out: this user shows a certificate.",
        ),
        refused(
            "password",
            "a password never stands in a file",
            "write `password_hash = \"$argon2id$…\"` with what `fieldgate passwd` prints",
        ),
        SUBSCRIBE,
        PUBLISH,
        DENY,
    ],
};

static ANONYMOUS: TableDef = TableDef { title: "[broker.anonymous]", keys: &[SUBSCRIBE, PUBLISH, DENY] };

const SUBSCRIBE: Key = key(
    "subscribe",
    TextList,
    Texts(&[]),
    "[\"plant/#\"]",
    "Topic filters that may be read; {user}, {client} and {gateway} are filled in.",
);
const PUBLISH: Key = key(
    "publish",
    TextList,
    Texts(&[]),
    "[\"plant/+/+/set\"]",
    "Topic filters that may be written; {user}, {client} and {gateway} are filled in.",
);
const DENY: Key = key(
    "deny",
    TextList,
    Texts(&[]),
    "[\"plant/secret/#\"]",
    "Topic filters that are neither read nor written, whatever else allows it.",
);

static UPLINK: TableDef = TableDef {
    title: "[[uplink]]",
    keys: &[
        key("name", Name, Required, "\"cloud\"", "The uplink's name; its queue on disk is kept under it."),
        key("url", Text, Required, "\"mqtts://broker.example.com:8883\"", "mqtt, mqtts, ws or wss."),
        key("version", Integer(4, 5), Int(5), "5", "5, or 4 for MQTT 3.1.1."),
        key("client_id", Text, Said("the gateway's id"), "\"pi-1\"", "The MQTT client identifier."),
        key("username", Text, Nothing, "\"pi-1\"", "Left out: none is sent."),
        key(
            "password_file",
            Text,
            Nothing,
            "\"cloud.password\"",
            "A file relative to this one, or the name of a systemd credential.",
        ),
        refused(
            "password",
            "a password never stands in a file",
            "write `password_file = \"cloud.password\"` and put the password into that file",
        ),
        key("ca", Text, Said("the system's roots"), "\"ca.pem\"", "Whom to trust, PEM, relative to this file."),
        key("client_cert", Text, Nothing, "\"pi.pem\"", "The certificate to show, PEM."),
        key("client_key", Text, Nothing, "\"pi.key\"", "Its private key, PEM."),
        key(
            "forward",
            TextList,
            Texts(&[]),
            "[\"plant/#\"]",
            "Local topics that go up, through the store; {gateway} is filled in.",
        ),
        key(
            "accept",
            TextList,
            Texts(&[]),
            "[\"plant/{gateway}/+/+/set\"]",
            "Topics taken from upstream; {gateway} is filled in.",
        ),
        key("prefix", Text, Word(""), "\"site-7/\"", "Put before every topic upstream; {gateway} is filled in."),
        key("qos", Integer(0, 2), Int(1), "1", "What forwarded messages are published with."),
        key("max_bytes", Integer(4_096, i64::MAX), Int(536_870_912), "536870912", "This uplink's queue on disk."),
        key(
            "max_age_secs",
            Integer(0, U32_MAX),
            Int(2_592_000),
            "2592000",
            "Older messages are dropped. 0: whatever their age.",
        ),
        key(
            "when_full",
            Choice(&["drop_oldest", "drop_newest"]),
            Word("drop_oldest"),
            "\"drop_oldest\"",
            "What goes when the queue has reached its bound.",
        ),
        key(
            "drain",
            Choice(&["oldest_first", "newest_first"]),
            Word("oldest_first"),
            "\"oldest_first\"",
            "newest_first: fresh values at once, history behind.",
        ),
        key(
            "drain_per_sec",
            Integer(1, 1_000_000),
            Int(2_000),
            "2000",
            "Messages a second, backlog and live together.",
        ),
    ],
};

static STORE: TableDef = TableDef {
    title: "[store]",
    keys: &[key(
        "commit_ms",
        Integer(1, 60_000),
        Int(250),
        "250",
        "Group-commit window for samples; acknowledged publishes always commit first.",
    )],
};

static STATUS: TableDef = TableDef {
    title: "[status]",
    keys: &[key("bind", Text, Required, "\"127.0.0.1:8080\"", "Address and port of the page, /metrics and /healthz.")],
};
