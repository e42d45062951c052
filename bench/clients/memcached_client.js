// memcached (npm), the client that most Node programs use: memcached_client.js HOST:PORT...
//
// Runs all that the library offers through the first address, and, where there are several, what only a group can get wrong through all.
// It ends with status 1 at the first answer that is not the expected one. NODE_PATH says where the library lies.
'use strict';

const assert = require('node:assert/strict');
const Memcached = require('memcached');

const ROUNDS = 200; // operations of each concurrent client
const CLIENTS_EACH = 3; // concurrent clients of each replica
const MANY = 2000;
const FOREVER = 0;

// connect returns a client of one replica whose methods return promises.
function connect(address) {
  const client = new Memcached(address, { timeout: 10000, retries: 0, maxValue: 4 << 20, poolSize: 1 });
  const promised = { end: () => client.end() };
  for (const name of ['touch', 'get', 'gets', 'getMulti', 'set', 'replace', 'add', 'cas', 'append', 'prepend', 'incr', 'decr', 'del',
    'version', 'flush', 'stats', 'settings', 'slabs', 'items']) {
    promised[name] = (...args) => new Promise((resolve, reject) => {
      client[name](...args, (err, result) => (err ? reject(err) : resolve(result)));
    });
  }
  return promised;
}

// expect fails unless got equals want. what names the operation.
function expect(what, got, want) {
  assert.deepEqual(got, want, what);
}

// refuses fails unless the operation is refused with an error, or with false, as the library puts NOT_STORED.
async function refuses(what, operation) {
  let result;
  try {
    result = await operation();
  } catch {
    return;
  }
  assert.equal(result, false, what);
}

async function waitUntil(what, condition) {
  const deadline = Date.now() + 10000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `${what}: not within 10 seconds`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function storage(c) {
  expect('get of nothing', await c.get('a'), undefined);
  expect('set', await c.set('a', '1', FOREVER), true);
  expect('get', await c.get('a'), '1');
  await refuses('add of what is there', () => c.add('a', '2', FOREVER));
  expect('add', await c.add('b', '2', FOREVER), true);
  expect('replace', await c.replace('a', '3', FOREVER), true);
  await refuses('replace of nothing', () => c.replace('nothing', '3', FOREVER));
  expect('append', await c.append('a', '4'), true);
  expect('prepend', await c.prepend('a', '2'), true);
  await refuses('append to nothing', () => c.append('nothing', '4'));
  expect('get after append and prepend', await c.get('a'), '234');
  expect('del', await c.del('a'), true);
  expect('del of nothing', await c.del('a'), false);
  expect('get of what was deleted', await c.get('a'), undefined);
}

async function values(c) {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const large = Buffer.alloc(1000000, 'ASCII, since the library sends larger bytes as two. ');
  for (const [key, value] of [['text', 'clé \r\nEND\r\n'], ['number', 42], ['truth', true], ['object', { a: [1, 'two', null] }], ['bytes', bytes],
    ['k'.repeat(250), 'long key'], ['large', large]]) {
    expect(`set ${key}`, await c.set(key, value, FOREVER), true);
    expect(`get ${key}`, await c.get(key), value);
  }
}

// tooLarge needs a client of its own: the library takes a server that has answered SERVER_ERROR for one that is not there.
async function tooLarge(address) {
  const c = connect(address);
  await refuses('set of too large a value', () => c.set('large', Buffer.alloc((1 << 20) + 1), FOREVER));
  c.end();
}

async function manyKeys(c) {
  const keys = Array.from({ length: MANY }, (_, i) => `many:${i}`);
  await Promise.all(keys.map((key) => c.set(key, `value of ${key}`, FOREVER)));
  for (let i = 0; i < MANY; i += 100) { // the library puts all keys of a getMulti on one line
    const some = keys.slice(i, i + 100);
    expect('getMulti', await c.getMulti(some), Object.fromEntries(some.map((key) => [key, `value of ${key}`])));
  }
  await c.del('many:1');
  expect('getMulti with a miss', await c.getMulti(['many:0', 'many:1', 'many:2']), { 'many:0': 'value of many:0', 'many:2': 'value of many:2' });
}

async function checkAndSet(c) {
  await c.set('unique', '1', FOREVER);
  const { unique, cas } = await c.gets('unique');
  expect('gets', unique, '1');
  expect('cas', await c.cas('unique', '2', cas, FOREVER), true);
  await refuses('cas with the unique used already', () => c.cas('unique', '3', cas, FOREVER));
  expect('get after cas', await c.get('unique'), '2');
}

async function counters(c) {
  await c.set('n', 10, FOREVER);
  expect('incr', await c.incr('n', 5), 15);
  expect('decr', await c.decr('n', 1), 14);
  expect('decr below 0', await c.decr('n', 100), 0);
  await refuses('incr of nothing', () => c.incr('nothing', 1));
  await c.set('text', 'abc', FOREVER);
  await refuses('incr of a text', () => c.incr('text', 1));
}

async function expiry(c) {
  await c.set('short', '1', 1);
  await c.set('long', '1', 100);
  expect('touch', await c.touch('long', 1), true);
  await refuses('touch of nothing', () => c.touch('nothing', 1));
  await c.set('kept', '1', 1);
  expect('touch for long', await c.touch('kept', 100), true);
  await waitUntil('expiry of a set', async () => (await c.get('short')) === undefined);
  await waitUntil('expiry of a touch', async () => (await c.get('long')) === undefined);
  expect('get of what was touched for long', await c.get('kept'), '1');
}

async function administration(c) {
  const [version] = await c.version();
  assert.match(version.version, /^\d+\.\d+/, 'version');
  const [before] = await c.stats();
  await c.get('nothing');
  const [after] = await c.stats();
  expect('get_misses in stats', after.get_misses - before.get_misses, 1);
  const [settings] = await c.settings();
  assert.ok(settings.maxconns > 0, 'stats settings');
  await c.slabs();
  await c.items();
  await c.set('flushed', '1', FOREVER);
  expect('flush', await c.flush(), [true]);
  expect('get of what was flushed', await c.get('flushed'), undefined);
}

// visibleEverywhere: what was answered by one replica is read at once from any other.
async function visibleEverywhere(clients) {
  for (let i = 0; i < ROUNDS; i++) {
    const [writer, reader, third] = [0, 1, 2].map((n) => clients[(i + n) % clients.length]);
    expect('set', await writer.set('moving', `${i}`, FOREVER), true);
    expect('get from another replica', await reader.get('moving'), `${i}`);
    const { cas } = await third.gets('moving');
    expect('cas at a third', await third.cas('moving', `cas ${i}`, cas, FOREVER), true);
    expect('get after it', await reader.get('moving'), `cas ${i}`);
    expect('del', await reader.del('moving'), true);
    expect('get of what was deleted elsewhere', await writer.get('moving'), undefined);
  }
  await clients[0].set('flushed', '1', FOREVER);
  await clients[1].flush();
  for (const c of clients) {
    expect('get of what was flushed elsewhere', await c.get('flushed'), undefined);
  }
}

// countsAreExact: incr, and cas in a loop, through all replicas at once, lose nothing; of many adds of one key one is STORED.
async function countsAreExact(addresses) {
  const clients = addresses.flatMap((address) => Array.from({ length: CLIENTS_EACH }, () => connect(address)));
  await clients[0].set('counter', 0, FOREVER);
  await clients[0].set('cas-counter', 0, FOREVER);
  let won = 0;
  await Promise.all(clients.map(async (c) => {
    for (let i = 0; i < ROUNDS; i++) {
      await c.incr('counter', 1);
      if (i % 4 === 0) {
        const stored = await c.add(`once:${i}`, '1', FOREVER).catch(() => false);
        won += Number(stored);
      }
      for (let stored = false; !stored;) {
        const got = await c.gets('cas-counter');
        stored = await c.cas('cas-counter', got['cas-counter'] + 1, got.cas, FOREVER).then(Boolean, () => false);
      }
    }
  }));
  for (const c of clients) {
    expect('counter after concurrent incr', await c.get('counter'), ROUNDS * clients.length);
    expect('counter after concurrent cas', await c.get('cas-counter'), ROUNDS * clients.length);
  }
  expect('adds that were STORED', won, ROUNDS / 4);
  clients.forEach((c) => c.end());
}

async function main(addresses) {
  const clients = addresses.map(connect);
  await clients[0].flush();
  for (const part of [storage, values, manyKeys, checkAndSet, counters, expiry, administration]) {
    await part(clients[0]);
  }
  await tooLarge(addresses[0]);
  await countsAreExact(addresses);
  if (clients.length > 1) {
    await visibleEverywhere(clients);
  }
  clients.forEach((c) => c.end());
}

main(process.argv.slice(2)).then(() => process.exit(0), (err) => {
  console.error(err.stack || err);
  process.exit(1);
});
