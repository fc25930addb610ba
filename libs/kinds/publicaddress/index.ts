export { createPool, deletePool, listPools, type Pool, parseRanges } from './pools.js';
export { publicaddress } from './publicaddress.kind.js';
