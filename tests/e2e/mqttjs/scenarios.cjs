// MQTT.js against the broker: `node scenarios.cjs SCENARIO JSON`. JSON: urls by name, ca (a file), user and password where asked.
// Exits 0 when the scenario holds; else tells what did not, and exits 1.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const mqtt = require("mqtt");

const given = JSON.parse(process.argv[3] ?? "{}");
const PATIENCE_MS = 20_000;
const clients = [];

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  while (!holds()) {
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await pause(10);
  }
}

async function join(url, options = {}) {
  const client = mqtt.connect(url, {
    reconnectPeriod: 0,
    connectTimeout: PATIENCE_MS,
    ca: given.ca && fs.readFileSync(given.ca),
    ...options,
  });
  clients.push(client);
  client.got = [];
  client.on("message", (topic, payload, packet) => client.got.push({ topic, text: payload.toString(), packet }));
  client.connack = await new Promise((done, failed) => {
    client.once("connect", done);
    client.once("error", failed);
    client.once("close", () => failed(new Error("closed before CONNACK")));
  });
  // From now on an error is a scenario's own business.
  client.on("error", () => {});
  return client;
}

const leave = (client) => client.endAsync(false);
const cut = (client) => new Promise((done) => { client.once("close", done); client.stream.destroy(); });
const texts = (client) => client.got.map((one) => one.text);
const v5 = (more = {}) => ({ protocolVersion: 5, ...more });
const durable = (clientId, clean = false) => v5({ clientId, clean, properties: { sessionExpiryInterval: 600 } });

const scenarios = {
  async every_level_and_version_on_every_port() {
    for (const [name, url] of Object.entries(given.urls)) {
      for (const protocolVersion of [4, 5]) {
        const [from, to] = [await join(url, { protocolVersion }), await join(url, { protocolVersion })];
        for (const qos of [0, 1, 2]) {
          await to.subscribeAsync(`level/${qos}`, { qos });
          for (let number = 0; number < 20; number++) await from.publishAsync(`level/${qos}`, String(number), { qos });
        }
        await until(`60 messages over ${name} in version ${protocolVersion}`, () => to.got.length >= 60);
        await pause(100);
        for (const qos of [0, 1, 2]) {
          const got = to.got.filter((one) => one.topic === `level/${qos}`);
          assert.deepEqual(got.map((one) => one.text), [...Array(20).keys()].map(String), `${name} QoS ${qos}`);
          assert.ok(got.every((one) => one.packet.qos === qos));
        }
        const large = "x".repeat(100_000);
        await from.publishAsync("level/1", large, { qos: 1 });
        await until("a large message", () => to.got.at(-1).text === large);
        await leave(from);
        await leave(to);
      }
    }
  },

  async a_hundred_publishers_and_one_subscriber_lose_nothing() {
    const url = given.urls.tcp;
    for (const qos of [1, 2]) {
      const to = await join(url, { clientId: `to-${qos}` });
      await to.subscribeAsync(`many/${qos}/#`, { qos });
      const from = await Promise.all([...Array(100).keys()].map((name) => join(url, { clientId: `from-${qos}-${name}` })));
      const each = 200;
      // All at once: MQTT.js has no window of its own.
      await Promise.all(from.flatMap((client, name) =>
        [...Array(each).keys()].map((number) => client.publishAsync(`many/${qos}/${name}`, String(number), { qos }))));
      await until(`100 times ${each} messages at QoS ${qos}`, () => to.got.length >= 100 * each);
      await pause(200);
      assert.equal(to.got.length, 100 * each);
      for (let name = 0; name < 100; name++) {
        const got = to.got.filter((one) => one.topic === `many/${qos}/${name}`).map((one) => one.text);
        assert.deepEqual(got, [...Array(each).keys()].map(String), `publisher ${name} at QoS ${qos}`);
      }
    }
  },

  async properties_arrive_as_they_were_sent() {
    const url = given.urls.tcp;
    const [from, to] = [await join(url, v5()), await join(url, v5())];
    await to.subscribeAsync("props/#", { qos: 1, properties: { subscriptionIdentifier: 7 } });
    const properties = {
      payloadFormatIndicator: true,
      contentType: "text/plain",
      responseTopic: "answers/1",
      correlationData: Buffer.from([0, 1, 255]),
      userProperties: { b: ["2", "1"], a: "0" },
      messageExpiryInterval: 100,
    };
    await from.publishAsync("props/a", "x", { qos: 1, properties });
    await until("the message", () => to.got.length === 1);
    const got = to.got[0].packet.properties;
    assert.equal(got.subscriptionIdentifier, 7);
    assert.ok(got.messageExpiryInterval <= 100 && got.messageExpiryInterval >= 95);
    for (const key of ["payloadFormatIndicator", "contentType", "responseTopic"]) assert.equal(got[key], properties[key], key);
    assert.deepEqual(got.correlationData, properties.correlationData);
    assert.deepEqual(JSON.parse(JSON.stringify(got.userProperties)), properties.userProperties);
  },

  async topic_aliases_serve_both_ways() {
    const url = given.urls.tcp;
    const to = await join(url, v5({ properties: { topicAliasMaximum: 5 } }));
    const from = await join(url, v5({ autoAssignTopicAlias: true }));
    assert.ok(from.connack.properties.topicAliasMaximum > 0);
    await to.subscribeAsync("alias/#", { qos: 1 });
    for (let number = 0; number < 40; number++) await from.publishAsync(`alias/long-topic-name/${number % 20}`, String(number), { qos: 1 });
    await until("forty messages", () => to.got.length === 40);
    assert.deepEqual(to.got.map((one) => one.topic), [...Array(40).keys()].map((number) => `alias/long-topic-name/${number % 20}`));
  },

  async retained_messages_come_as_the_subscription_asks() {
    const url = given.urls.tcp;
    const from = await join(url, v5());
    await from.publishAsync("kept/a", "old", { qos: 1, retain: true });
    const to = await join(url, v5());
    await to.subscribeAsync("kept/#", { qos: 1, rh: 2 });
    await pause(200);
    assert.equal(to.got.length, 0, "retain handling 2");
    await to.subscribeAsync("kept/#", { qos: 1, rh: 1 });
    await pause(200);
    assert.equal(to.got.length, 0, "retain handling 1, not new");
    await to.subscribeAsync("kept/#", { qos: 1, rh: 0, rap: true });
    await until("the retained message", () => to.got.length === 1);
    await from.publishAsync("kept/a", "new", { qos: 1, retain: true });
    await until("the new one", () => to.got.length === 2);
    assert.deepEqual(to.got.map((one) => [one.text, one.packet.retain]), [["old", true], ["new", true]]);
    await from.publishAsync("kept/a", "", { qos: 1, retain: true });
    const late = await join(url, v5());
    await late.subscribeAsync("kept/#", { qos: 1 });
    await pause(200);
    assert.equal(late.got.length, 0);
  },

  async a_session_waits_with_its_messages_and_its_will_with_its_delay() {
    const url = given.urls.tcp;
    let to = await join(url, durable("keeper", true));
    assert.equal(to.connack.sessionPresent, false);
    await to.subscribeAsync("while-away", { qos: 2 });
    await cut(to);
    const watcher = await join(url, v5());
    await watcher.subscribeAsync("gone/#", { qos: 1 });
    for (let number = 0; number < 50; number++) await watcher.publishAsync("while-away", String(number), { qos: 2 });
    to = await join(url, durable("keeper"));
    assert.equal(to.connack.sessionPresent, true);
    await until("fifty messages", () => to.got.length >= 50);
    assert.deepEqual(texts(to), [...Array(50).keys()].map(String));
    const will = (delay) => ({ topic: "gone/will", payload: "x", qos: 1, retain: false, properties: { willDelayInterval: delay } });
    const back = await join(url, { ...durable("w", true), will: will(1) });
    await cut(back);
    await (await join(url, { ...durable("w"), will: will(1) })).endAsync();
    await pause(1500);
    assert.equal(watcher.got.length, 0, "it was back in time, and left in order");
    await cut(await join(url, { ...durable("w"), will: will(1) }));
    await until("the will", () => watcher.got.length === 1);
  },

  async qos_2_is_exactly_once_while_both_connections_are_cut() {
    const url = given.urls.tcp;
    const options = (clientId) => ({ ...durable(clientId), reconnectPeriod: 20 });
    const [from, to] = [await join(url, options("from")), await join(url, options("to"))];
    await to.subscribeAsync("twice", { qos: 2 });
    // MQTT.js gives a publish up when a second cut comes while it sends the first one's again: only the others are owed.
    const sent = [];
    const owed = new Set();
    for (let number = 0; number < 300; number++) {
      sent.push(from.publishAsync("twice", String(number), { qos: 2 }).then(() => owed.add(number), () => {}));
      if (number % 40 === 20) from.stream.destroy();
      if (number % 40 === 30) to.stream.destroy();
      await pause(3);
    }
    await Promise.all(sent);
    assert.ok(owed.size > 200, `${owed.size} acknowledged`);
    const got = () => new Set(texts(to).map(Number));
    await until("what was acknowledged", () => [...owed].every((number) => got().has(number)));
    await pause(500);
    assert.equal(to.got.length, got().size, "none comes twice");
  },

  async members_of_a_shared_subscription_divide_its_messages() {
    const url = given.urls.tcp;
    const [a, b, all, from] = [await join(url, v5()), await join(url, v5()), await join(url, v5()), await join(url, v5())];
    for (const one of [a, b]) await one.subscribeAsync("$share/crew/work/#", { qos: 1 });
    await all.subscribeAsync("work/#", { qos: 1 });
    for (let number = 0; number < 100; number++) await from.publishAsync(`work/${number % 7}`, String(number), { qos: 1 });
    await until("every message twice", () => all.got.length === 100 && a.got.length + b.got.length === 100);
    assert.ok(a.got.length > 20 && b.got.length > 20, `${a.got.length} and ${b.got.length}`);
    assert.deepEqual([...texts(a), ...texts(b)].map(Number).sort((x, y) => x - y), [...Array(100).keys()]);
  },

  async what_is_not_allowed_is_refused_with_its_reason() {
    const login = v5({ username: given.user, password: given.password });
    const url = given.urls.tcp;
    await assert.rejects(join(url, { ...login, password: "wrong" }), (error) => error.code === 0x86);
    await assert.rejects(join(url, v5({ username: given.user })), (error) => error.code === 0x86);
    const client = await join(url, login);
    await assert.rejects(client.publishAsync("secret/a", "x", { qos: 1 }), (error) => error.code === 0x87);
    await assert.rejects(client.publishAsync("secret/a", "x", { qos: 2 }), (error) => error.code === 0x87);
    const [granted] = await client.subscribeAsync("open/#", { qos: 2 });
    assert.equal(granted.qos, 2);
    await assert.rejects(client.subscribeAsync("other/#", { qos: 1 }), /Unspecified error|Not authorized/i);
    assert.ok(client.connected);
  },
};

async function main() {
  const scenario = scenarios[process.argv[2]];
  if (!scenario) {
    console.log(Object.keys(scenarios).join("\n"));
    return;
  }
  await scenario();
  await Promise.all(clients.map((client) => client.endAsync(true).catch(() => {})));
}

main().then(() => process.exit(0), (failure) => { console.error(failure); process.exit(1); });
