export { Wire, type WireOptions } from './wire.js';
