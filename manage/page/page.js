// Shows what the manager says of its zone, every two seconds. Everything is put in as text, never as markup.
'use strict';

const INTERVAL = 2000;

function element(name, words, classes) {
  const made = document.createElement(name);
  made.textContent = words;
  if (classes) made.className = classes;
  return made;
}

function fill(id, children) {
  document.getElementById(id).replaceChildren(...children);
}

function vmBox(vm) {
  const settled = vm.wanted === 'running' ? vm.state === 'ready' : vm.state === 'stopped';
  const box = element('div', '', 'vm ' + (settled ? 'good' : 'bad'));
  box.append(element('strong', vm.name), ` ${vm.kind}${vm.owner ? ' of ' + vm.owner : ''}: `);
  box.append(element('span', vm.doing || vm.state, settled ? 'word-good' : 'word-bad'));
  const addresses = vm.nics.filter((nic) => nic.traffic !== 'Control').map((nic) => `${nic.traffic} ${nic.address}`);
  box.append(element('div', addresses.join(', '), 'small'));
  if (vm.error) box.append(element('div', vm.error, 'word-bad small'));
  return box;
}

function hostBox(title, state, good, vms) {
  const box = element('article', '', 'host');
  box.append(element('h3', title), element('p', state, good ? 'word-good' : 'word-bad'));
  if (vms.length === 0) box.append(element('div', 'no VM', 'small'));
  box.append(...vms.map(vmBox));
  return box;
}

function show(status) {
  document.title = `Zone ${status.zone}`;
  document.getElementById('zone').textContent = `Zone ${status.zone}`;
  const state = document.getElementById('state');
  state.textContent = status.trouble || (status.ready ? 'ready' : 'not ready');
  state.className = status.ready && !status.trouble ? 'word-good' : 'word-bad';
  const boxes = status.hosts.map((host) => {
    const up = host.up ? `up, last ping ${host.last_ping} s ago` : 'not connected';
    const vms = status.vms.filter((vm) => vm.host === host.name);
    const good = host.up && host.standing === 'in service';
    return hostBox(`${host.name} (${host.address})`, host.standing === 'in service' ? up : `${up}; ${host.standing}`, good, vms);
  });
  const nowhere = status.vms.filter((vm) => !vm.host);
  if (nowhere.length > 0) boxes.push(hostBox('On no host', 'stopped, starting or unknown', false, nowhere));
  fill('map', boxes);
  fill('stores', status.stores.map((store) => {
    const line = element('li', `${store.name} (${store.kind}): `);
    line.append(element('span', store.error || 'ok', store.error ? 'word-bad' : 'word-good'));
    return line;
  }));
  fill('events', status.events.slice(-50).reverse().map((event) => {
    const row = document.createElement('tr');
    const time = new Date(event.at * 1000).toLocaleString();
    row.append(element('td', time), element('td', event.subject), element('td', event.text));
    return row;
  }));
}

async function round() {
  try {
    const answer = await fetch('status.json', { cache: 'no-store' });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
    document.body.dataset.state = 'live';
  } catch (error) {
    const state = document.getElementById('state');
    state.textContent = `The manager does not answer (${error.message}); what is shown is from before. VMs run on.`;
    state.className = 'word-bad';
    document.body.dataset.state = 'stale';
  }
  setTimeout(round, INTERVAL);
}

round();
