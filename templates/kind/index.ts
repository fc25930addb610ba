export { sampleThing } from './sample-thing.kind.js';
