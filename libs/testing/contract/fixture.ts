/** What a kind tells the contract suite of itself, in its folder's `<kind>.contract.ts`. */
import type { Caller, KindDefinition } from '#libs/resources';
import type { Platform } from '../platform.js';

/** One case's tenant, with what the kind's fixture needs to make things in it. */
export interface ContractContext {
  platform: Platform;
  kind: KindDefinition;
  /** May do everything in a tenant that the case has for itself. */
  caller: Caller;
  /** A name that nothing has. */
  unique(): string;
  /** Creates a resource of any kind and waits until it is ready; returns its id. */
  make(kindName: string, body: object): Promise<string>;
}

export interface Dependant {
  kind: string;
  body: object;
}

export interface Standing {
  /** What is made before it, after the fixture's own `prepare`. */
  prepare?(ctx: ContractContext): Promise<void>;
  /** What stands on it while it is changed, where it cannot be made before. */
  isDependant?: true;
  /** Further changes, as in `more`, which need the machine. */
  more?: ChangeableKind['more'];
}

/** The fixture of a kind that users can change. */
export interface ChangeableKind {
  /** True: whoever has a token makes them, for himself; only he and administrators see them. */
  isPersonal?: boolean;
  /** Once: what all tenants share. */
  install?(platform: Platform): Promise<void>;
  /** In each case's tenant: what the kind refers to. */
  prepare?(ctx: ContractContext): Promise<void>;
  /** A valid body with a name of its own. */
  create(ctx: ContractContext): { name: string };
  /** A merge patch that changes something visible. */
  patch: object;
  /** Bodies of the kind's actions, in an order in which they can be done. */
  actions?: Record<string, object>;
  /** Actions that the suite's order of bodies cannot come to, with a test of their own. */
  elsewhere?: readonly string[];
  /** For suites of crashes: further changes after those, `update` or an action each, with its body. */
  more?: readonly (readonly [change: string, body: object])[];
  /** For suites with real nodes: a machine in the case's tenant, by which nodes come to have a part in it. */
  standing?: Standing;
  /** Something that needs the resource, so that it cannot be removed. */
  dependant?(ctx: ContractContext, id: string): Dependant;
  /** What is wrong in the kind's own way: laid over a valid body, and where the refusal points. */
  invalid: readonly { change: object; pointer: string }[];
  /** Questions whose rows break a promise of the kind's; `$1` is the tenant. */
  broken?: Readonly<Record<string, string>>;
}

/** The fixture of a kind that users can only read. */
export interface ReadOnlyKind {
  /** Makes a resource by the administrator's way, of the tenant of `caller` where it has one; every tenant may read it if `isPublic`. */
  insert(platform: Platform): Promise<{ id: string; name: string; caller?: Caller }>;
  isPublic: boolean;
  /** What administrators do with it by jobs, for suites of crashes. */
  administered?: ChangeableKind;
}

export type KindContract = ChangeableKind | ReadOnlyKind;

/** Gives a fixture its types without widening it. */
export function kindContract<Fixture extends KindContract>(fixture: Fixture): Fixture {
  return fixture;
}
