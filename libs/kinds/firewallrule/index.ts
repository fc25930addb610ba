export { firewallrule } from './firewallrule.kind.js';
