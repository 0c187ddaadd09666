import { AclOperations, AclPermissionTypes, describeAclsV3, metadataV12, ResourcePatternTypes, ResourceTypes } from '@platformatic/kafka';
import { type LinkContext, pause } from '@turnpike/core/spi';
import type { Address, Connections } from './connections.ts';
import { responseIn, type Where } from './errors.ts';
import type { Metadata } from './metadata.ts';

/** How long a change is waited for, in ms. Then it is left at that: it is made, and a broker that lags will learn of it. */
const PATIENCE_MS = 5_000;
const ASK_AGAIN_MS = 20;

type Topics = Awaited<ReturnType<typeof metadataV12.api.async>>['topics'];
type DescribedAcls = Awaited<ReturnType<typeof describeAclsV3.api.async>>['resources'];

/** The controller acknowledges a change, and each broker learns of it a moment later: until then it may say that a topic isn't there, or refuse what an ACL allows. These wait until every broker that
 *  answers has it, so that who comes next, at whatever broker, finds it. */
export class Visibility {
  readonly #context: LinkContext;
  readonly #metadata: Metadata;
  readonly #connections: Connections;

  constructor(context: LinkContext, metadata: Metadata, connections: Connections) {
    this.#context = context;
    this.#metadata = metadata;
    this.#connections = connections;
  }

  /** Each with at least so many partitions, all of which have a leader. */
  topics(partitions: ReadonlyMap<string, number>): Promise<void> {
    return this.#topicsAre([...partitions.keys()], (topics) =>
      topics.every((t) => t.errorCode === 0 && t.partitions.length >= (partitions.get(t.name ?? '') ?? 0) && t.partitions.every((p) => p.leaderId >= 0)),
    );
  }

  noTopics(names: readonly string[]): Promise<void> {
    return this.#topicsAre(names, (topics) => topics.every((t) => t.errorCode !== 0));
  }

  /** Of the ACLs of these principals. */
  acls(principals: readonly string[], are: (acls: DescribedAcls) => boolean): Promise<void> {
    const any = { resourceType: ResourceTypes.ANY, resourceName: null, resourcePatternType: ResourcePatternTypes.ANY };
    const filter = (principal: string) => ({ ...any, principal, host: null, operation: AclOperations.ANY, permissionType: AclPermissionTypes.ANY });
    return this.#everywhere(async (broker) => {
      const lists = await Promise.all(
        principals.map((principal) =>
          this.#connections.call(broker, 'admin', describeAclsV3.api, [filter(principal) as Parameters<typeof describeAclsV3.createRequest>[0]], this.#where),
        ),
      );
      return are(lists.flatMap((l) => l.resources));
    });
  }

  #topicsAre(names: readonly string[], are: (topics: Topics) => boolean): Promise<void> {
    if (names.length === 0) return Promise.resolve();
    return this.#everywhere(async (broker) => {
      const args: Parameters<typeof metadataV12.createRequest> = [[...names], false, false];
      const response = await this.#connections.call(broker, 'admin', metadataV12.api, args, this.#where).catch((error: unknown) => {
        const answer = responseIn<{ topics: Topics }>(error); // The library throws where one topic is an error.
        if (answer === undefined) throw error;
        return answer;
      });
      return are(response.topics);
    });
  }

  async #everywhere(has: (broker: Address) => Promise<boolean>): Promise<void> {
    const { clock } = this.#context;
    const until = clock.monotonic() + PATIENCE_MS;
    await Promise.all(
      this.#metadata.brokers().map(async (broker) => {
        // A broker that is down, or doesn't show it to this principal, can't be waited for.
        while (!(await has(broker).catch(() => true)) && clock.monotonic() < until) await pause(clock, ASK_AGAIN_MS);
      }),
    );
  }

  get #where(): Where {
    return { doing: 'see a change at each broker', principal: this.#context.identity.principal };
  }
}
