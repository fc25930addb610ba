export { publicaddress } from './publicaddress.kind.js';
