export { wireguardpeer } from './wireguardpeer.kind.js';
