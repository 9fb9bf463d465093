/* ic_store_actor: owns the store. Everybody else sends it jobs.
 *
 * Mail in:  STORE_JOB   runs in order of arrival. Grouped jobs that wait together run in one
 *                       transaction and share its fsync; each comes back when it is durable. When
 * one of a group fails, the group is rolled back and its jobs run one by one, so that only the
 * guilty one fails. PORT_CLOSE  the maker of that reply port is about to end: the port is closed
 * here. When nothing waits, the store's housekeeping runs in small pieces. A full mailbox: senders
 * keep at most a few jobs on the way each, so it does not fill; what does not fit waits in the
 * sender's outbox.
 */
#ifndef IC_STORE_ACTOR_H
#define IC_STORE_ACTOR_H

#include "actors/ic_actor_msgs.h"

typedef struct ic_store_actor_args { /* borrowed for the actor's life */
    ic_store_config config;
    int64_t request_keep_us;
} ic_store_actor_args;

/* For ic_actor_start. The verdict carries ic_store_open's error. */
void ic_store_actor_run(ic_actor_self *self);

#endif
