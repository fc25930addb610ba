export { instance } from './instance.kind.js';
