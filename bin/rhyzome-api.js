#!/usr/bin/env node
// Starts what the build made of apps/api, by a Node that is new enough.
import { run } from './run.js';

await run('api');
