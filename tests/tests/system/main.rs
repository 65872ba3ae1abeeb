//! The system as a black box: the real binaries over a private broker and Redis, publishers and receivers around them. Each
//! test is a story titled with the promise it checks; at its end the harness balances the books.
mod fanfare; // one Fanfare for one test, and how its books are balanced

mod acceptance; // the same id again, and what ingest answers while its dependencies are away
mod check_delivery; // the helm test's event, there and back
mod cost; // broker messages and Redis calls per delivery
mod crashes; // each service stopped dead at each step
mod delivery; // an event reaches its receiver
mod description; // what /openapi.json says is what the api does
mod examples; // the receivers that people copy
mod failover; // a primary of Redis that dies, and a cluster
mod gives_up; // a product's webhook gives up, and comes back
mod held; // what a webhook that gets no deliveries holds
mod input; // what bad input gets
mod keys; // the keys that seal secrets are changed
mod languages; // publishers and receivers in Python
mod management; // the management API by a document's own commands
mod metrics; // what the services say of themselves
mod notices; // mails and operational events
mod products; // the five products, request by request
mod records; // the one form of a delivery's record
mod resilience; // what goes wrong with one stays there
mod restored; // Redis put back from a copy, a broker lost
mod retries; // failures come back
mod run; // what `make run` shows
mod stored_forms; // what a release stored, the next works on
mod test_on_save; // what its target refuses is not saved
mod waits; // delays live in the broker
mod webhooks; // a change is in force at once
