export { image } from './image.kind.js';
export type { ImageRow } from './image.resource.js';
