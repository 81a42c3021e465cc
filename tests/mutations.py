"""Faults that are planted in the protocol one by one, each with a test that must notice it; see `test_mutations`.

Each is a replacement of text that occurs exactly once in its file, so that this list cannot rot without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """A fault that is planted.

    Attributes
    ----------
    name
        Names it, like no other.
    file
        Name of the module below ``zappend/txn``, without its ending.
    old, new
        The text that is replaced, and by what.
    breaks
        What no longer holds.
    tests
        Node ids below ``tests`` of quick tests, at least one of which must fail.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]


RULES = "test_txn_order.py::test_rules_hold_at_every_call"
RECOVERY_SYNCS = "test_txn_order.py::test_recovery_syncs_what_the_dead_had_not"
CUT = "test_txn_powercut.py::test_transaction"
KILLS = "test_txn_faults.py::test_killed_before_every_operation"
ERRORS = "test_txn_faults.py::test_error_at_every_operation"
DAMAGE = "test_txn_damage.py::test_damaged_logs"
HELD_BACK = "test_txn_mapping.py::test_documents_are_held_back"
COMMIT_ORDER = "test_txn_mapping.py::test_order_of_the_commit"
REQUEST_ERRORS = "test_txn_objects.py::test_error_at_every_request"
LIVE_WRITER = "test_txn_objects.py::test_live_writer_is_told_of_and_not_robbed"
LATE_WAITED = "test_txn_objects.py::test_requests_that_may_be_late_are_waited_out"
ATTACKS = "test_txn_attacks.py::"

LOCAL = [
    Mutation(
        "value not synced",
        "local",
        """            if self._sync_files:
                self._files.fsync(fd)
        finally:
""",
        "        finally:\n",
        "A value, or an object of the log, may be empty or torn after a power cut.",
        (RULES,),
    ),
    Mutation(
        "folders not synced",
        "local",
        "                self._side_by_side(self._sync_folder, sorted(folders))",
        "                pass",
        "What was renamed before the decision may not be there after a power cut.",
        (RULES,),
    ),
    Mutation(
        "parent of a new folder not synced",
        "local",
        "        self._changed(folder)\n\n    def _changed",
        "\n    def _changed",
        "A new folder may be lost with all its chunks.",
        (f"{RULES}[create-full]", f"{CUT}[create-quick]"),
    ),
    Mutation(
        "entry of the place not synced",
        "local",
        "        self.place._changed(self.place.root)  # the lock makes it, each time anew\n",
        "",
        "The folder of the log may be lost, and what was changed stays.",
        (f"{CUT}[append-quick]", RULES),
    ),
    Mutation(
        "entry of the place synced for the first transaction alone",
        "local",
        """        self.place._changed(self.place.root)  # the lock makes it, each time anew
        return FileLock(self.name, self.place.root, self._other_place, self._files)
""",
        """        if not hasattr(self, "_locked"):
            self.place._changed(self.place.root)
        self._locked = True
        return FileLock(self.name, self.place.root, self._other_place, self._files)
""",
        "The folder of the log may be lost, and what was changed stays.",
        ("test_txn_order.py::test_second_transaction_on_one_storage",),
    ),
    Mutation(
        "second names of originals not synced",
        "local",
        "            self.place._changed(self.place._path(name))\n",
        "",
        "The head may name an original that is lost.",
        (RULES,),
    ),
    Mutation(
        "originals synced with the head that names them",
        "log",
        """            if _critical(first):
                self._place.sync()  # what a head names is there when it is
""",
        "",
        "The head may name an original that is lost, though nothing has changed.",
        (f"{RULES}[move-full]",),
    ),
    Mutation(
        "originals kept by name not restored",
        "replay",
        "    storage.restore(log.references, log.txn)\n",
        "",
        "What was moved or overwritten stays lost.",
        (f"{KILLS}[move-folder-rollback]", KILLS),
    ),
    Mutation(
        "a lost original passed over",
        "log",
        """            if name not in there:
                raise LogDamaged(f"log object {name!r} is missing")
""",
        """            if name not in there:
                pass
""",
        "Recovery fails half-way, or leaves a key as it is.",
        ("test_txn_damage.py::test_an_original_that_is_lost",),
    ),
    Mutation(
        "renamed before it is synced",
        "local",
        """        temp = self._write_temp(path, value, txn)
        self._files.rename(temp, path)
""",
        """        self._sync_files, full = False, self._sync_files
        temp = self._write_temp(path, value, txn)
        self._sync_files = full
        self._files.rename(temp, path)
        if full:
            with self._opened(path, os.O_RDONLY) as fd:
                self._files.fsync(fd)
""",
        "After a power cut a key may name a file without its bytes.",
        (RULES,),
    ),
    Mutation(
        "folder of a replaced key not synced",
        "local",
        """        self._files.rename(temp, path)
        self._changed(path)

    def create""",
        """        self._files.rename(temp, path)

    def create""",
        "A log object or a chunk may not be there after a power cut.",
        (RULES,),
    ),
    Mutation(
        "folder of the decision not synced",
        "local",
        """            self._files.unlink(temp)
        self._changed(path)
""",
        """            self._files.unlink(temp)
""",
        "What was reported as committed may be undone after a power cut.",
        (RULES,),
    ),
    Mutation(
        "folder of a deleted key not synced",
        "local",
        """            else:
                self._changed(path)

    def keys""",
        "\n    def keys",
        "What was deleted may come back after a power cut: a stray chunk, or the head of the log.",
        (RULES, "test_txn_order.py::test_rules_hold_for_a_rollback"),
    ),
    Mutation(
        "log not hardened",
        "local",
        """        if self._sync_files:
            for name, is_folder in list""",
        """        if False:
            for name, is_folder in list""",
        "Recovery acts on a decision that a power cut then takes away.",
        (RECOVERY_SYNCS,),
    ),
    Mutation(
        "changes of the dead not synced",
        "local",
        """        for folder in folders:
            self._changed(f"{self._path(folder)}/")
        self._changed(self.root)
""",
        "        del folders\n",
        "Recovery removes the log of changes that the dead process had not made durable.",
        (RECOVERY_SYNCS,),
    ),
    Mutation(
        "temporary file not cut",
        "local",
        "os.O_WRONLY | os.O_CREAT | os.O_TRUNC",
        "os.O_WRONLY | os.O_CREAT",
        "What recovery writes ends with the rest of what a killed writer wrote under the same temporary name.",
        (f"{ATTACKS}test_torn_temporary_file_that_is_longer",),
    ),
    Mutation(
        "temporary file by chance",
        "local",
        'temp = f"{TEMP_PREFIX}{txn}-{name}"',
        'temp = f"{TEMP_PREFIX}{txn}-{os.urandom(4).hex()}-{name}"',
        "Nobody finds the temporary files of killed writers.",
        ("test_txn_faults.py::test_killed_half_way_through_every_write",),
    ),
    Mutation(
        "file that cannot be read is absent",
        "local",
        """        except OSError as error:
            if not _is_absence(error):
                raise
            return None
""",
        """        except OSError:
            return None
""",
        "Undo deletes a chunk that could not be read for a moment.",
        (f"{ATTACKS}test_key_that_cannot_be_read_is_not_absent",),
    ),
    Mutation(
        "folders that were made stay",
        "replay",
        "    storage.remove_folders(log.folders)\n    storage.sync()\n    return done\n",
        "    storage.sync()\n    return done\n",
        "An undone transaction leaves empty folders.",
        ("test_txn_mapping.py::test_new_target_is_removed_and_an_old_empty_one_stays",),
    ),
    Mutation(
        "lock file not compared",
        "lock",
        "            keep = self._is_at_path(fd)\n",
        "            keep = True\n",
        "A lock on a file that was removed meanwhile counts: two writers.",
        ("test_txn_lock.py::test_lock_of_a_file_that_was_removed_meanwhile_is_none",),
    ),
    Mutation(
        "unlocked before it is removed",
        "lock",
        """            if self._is_at_path(fd):
                self._files.unlink(self._path)
            with""",
        """            if self._is_at_path(fd):
                import fcntl

                fcntl.flock(fd, fcntl.LOCK_UN)
                self._files.unlink(self._path)
            with""",
        "The one who ends removes the lock file of the one who begins.",
        (f"{ATTACKS}test_lock_is_held_until_its_file_is_gone",),
    ),
    Mutation(
        "lock that is seen held once is held",
        "lock",
        "            if time.monotonic() > until:\n",
        "            if until:\n",
        "A writer is refused because of one who just ends.",
        (f"{ATTACKS}test_lock_that_is_held_for_a_moment",),
    ),
    Mutation(
        "folder of the lock that vanishes",
        "lock",
        "            return None  # the folder was just removed by a holder that released",
        '            raise TargetError("gone") from None',
        "A writer fails because another one just ended.",
        (f"{ATTACKS}test_folder_of_the_lock_vanishes",),
    ),
    Mutation(
        "lock not checked before the decision",
        "context",
        "            self._lock.check()\n        if not self._log.hot",
        "            pass\n        if not self._log.hot",
        "A writer whose lock was deleted commits over its successor's work.",
        ("test_txn_lock.py::test_lock_deleted_by_hand_stops_the_commit",),
    ),
    Mutation(
        "child ends the transaction of its parent",
        "context",
        'if self.status != "active" or self._owner != os.getpid():',
        'if self.status != "active":',
        "A forked child touches what its parent is at.",
        ("test_txn_lock.py::test_forked_child_leaves_the_transaction_alone",),
    ),
    Mutation(
        "anybody takes the lock of a mapping",
        "registry",
        "            while self._identity in _holders:\n",
        "            while False:\n",
        "Two threads write to one mapping.",
        ("test_txn_lock.py::test_nested_transactions_are_refused",),
    ),
]

LOG = [
    Mutation(
        "head goes last",
        "log",
        """    if HEAD in found:
        place.delete(HEAD, "")
        place.sync()
        found.remove(HEAD)
    elif found:
""",
        """    if HEAD in found:
        found.sort(key=HEAD.__eq__)
    elif found:
""",
        "Between the two a decided transaction looks undecided, and is undone.",
        (f"{KILLS}[dict-append-rollback]",),
    ),
    Mutation(
        "head not durably gone",
        "log",
        """        place.delete(HEAD, "")
        place.sync()
""",
        """        place.delete(HEAD, "")
""",
        "After a power cut the head may come back without the decision, and what was committed is undone.",
        (RULES,),
    ),
    Mutation(
        "what has no head not hardened",
        "log",
        "        place.harden()  # that the head is gone may not be durable yet, and it must not come back alone\n",
        "        pass\n",
        "The same after the recovery of one who was killed just behind the removal of the head.",
        ("test_txn_powercut.py::test_kill_and_then_a_cut_during_recovery", RECOVERY_SYNCS),
    ),
    Mutation(
        "redo parts not durable before the decision",
        "log",
        "        self._place.sync()\n        self._attempted = True\n",
        "        self._attempted = True\n",
        "A decision may count parts that are not there after a power cut.",
        (RULES,),
    ),
    Mutation(
        "undo parts not durable before the head",
        "log",
        "            self._inline = (), ()\n            self._place.sync()\n",
        "            self._inline = (), ()\n",
        "A head may count parts that are not there after a power cut.",
        ("test_txn_threads.py::test_unplanned_keys_are_logged_before_they_change", RULES),
    ),
    Mutation(
        "checksum skipped",
        "record",
        "    if checksum != data[-DIGEST_SIZE:]:\n",
        "    if False:\n",
        "A flipped bit in a pre-image is restored as if it had been there.",
        (DAMAGE,),
    ),
    Mutation(
        "version skipped",
        "record",
        "    if major != MAJOR:\n",
        "    if False:\n",
        "A log of a newer version is acted on without understanding it.",
        (DAMAGE,),
    ),
    Mutation(
        "critical features skipped",
        "record",
        "    if unknown:\n",
        "    if False:\n",
        "A log that needs an unknown feature is acted on.",
        (DAMAGE,),
    ),
    Mutation(
        "chain skipped",
        "log",
        '(body["txn"], body["seq"], body["previous"]) != (self.txn, seq, previous)',
        '(body["txn"], body["seq"]) != (self.txn, seq)',
        "A part may be exchanged for an older one.",
        (DAMAGE,),
    ),
    Mutation(
        "last part not compared",
        "log",
        "            if seq == run.parts - 1 and previous != run.last:\n",
        "            if False:\n",
        "The last part may be exchanged for an older one.",
        (DAMAGE,),
    ),
    Mutation(
        "count of undo parts skipped",
        "log",
        'self._undo = _Chain(body["parts"], body["last"])',
        "self._undo = _Chain()",
        "Only the originals in the head are restored.",
        (DAMAGE,),
    ),
    Mutation(
        "count of redo parts skipped",
        "log",
        'log._redo = _Chain(body["parts"], body["last"])',
        "log._redo = _Chain()",
        "Recovery finishes only what the decision itself says.",
        (KILLS,),
    ),
    Mutation(
        "head of the decision not compared",
        "log",
        '                if body["head"] != log._head:\n',
        "                if False:\n",
        "A decision counts beside a head that it was not made for.",
        (DAMAGE,),
    ),
    Mutation(
        "decision of another transaction counts",
        "log",
        'if data is not None and (body := unpack(DECISION, data, DECISION))["txn"] == log.txn:',
        "if data is not None and (body := unpack(DECISION, data, DECISION)):",
        "A decision that a power cut brought back stops the recovery of the next transaction.",
        (DAMAGE,),
    ),
    Mutation(
        "anything in a file system is absence",
        "mappings",
        "        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:\n",
        "        except OSError as error:\n",
        "Undo deletes a chunk that could not be read for a moment.",
        (f"{ATTACKS}test_file_that_cannot_be_read_is_not_absent",),
    ),
    Mutation(
        "anything in a mapping is absence",
        "memory",
        "            return bytes(self._mapping[self._prefix + key])\n        except KeyError:\n",
        "            return bytes(self._mapping[self._prefix + key])\n        except Exception:\n",
        "Undo deletes a chunk that could not be read for a moment.",
        ("test_txn_faults.py::test_error_at_every_call_of_a_mapping",),
    ),
]

STORE = [
    Mutation(
        "chunk written before it is logged",
        "store",
        """                self._remember(chunks)
                self._storage.put_many(chunks, self._log.txn)
""",
        """                self._storage.put_many(chunks, self._log.txn)
                self._remember(chunks)
""",
        "The original is gone when it is logged.",
        (f"{RULES}[overwrite-full]", "test_txn_mapping.py::test_rollback_leaves_every_byte"),
    ),
    Mutation(
        "original logged twice",
        "store",
        "                todo = [key for key in self._waiting if key not in self._logged]\n",
        "                todo = list(self._waiting)\n",
        "The second pre-image of a key is what the transaction itself wrote, and it wins.",
        ("test_txn_threads.py::test_key_in_the_group_of_another_thread_is_not_logged_again",),
    ),
    Mutation(
        "keys marked before their group is logged",
        "store",
        """            self._log.add(records, folders)
            self._folders.update(folders)
            self._logged.update(keys)
""",
        """            self._logged.update(keys)
            self._log.add(records, folders)
            self._folders.update(folders)
""",
        "A thread writes a key whose original another thread is still logging.",
        (f"{ATTACKS}test_key_waits_for_the_group_of_another_thread",),
    ),
    Mutation(
        "key that is also new is not read",
        "store",
        "unseen = set(new).difference(changed)",
        "unseen = set(new)",
        "A chunk with data in it is logged as absent, and deleted by undo.",
        ("test_txn_mapping.py::test_key_that_is_both_new_and_changed_is_read",),
    ),
    Mutation(
        "document not held back",
        "store",
        "                if is_document(key):\n                    self._document(key)\n",
        "                if False:\n                    self._document(key)\n",
        "Readers see a new shape before the commit.",
        (HELD_BACK,),
    ),
    Mutation(
        "deletion not held back",
        "store",
        "                self._gone[key] = None\n\n    def update",
        "                self._gone[key] = None\n            self._storage.delete(key, '')\n\n    def update",
        "Readers miss a chunk before the commit, and undo does not know it.",
        (HELD_BACK,),
    ),
    Mutation(
        "chunk under a deleted key not staged",
        "store",
        "                elif self._is_gone(key):\n                    self._stage",
        "                elif False:\n                    self._stage",
        "Readers decode new bytes by the old document.",
        (HELD_BACK,),
    ),
    Mutation(
        "write does not end the deletion of its key",
        "store",
        "gone = [key for key in (*self._gone, *self._spilled) if key not in self._held and key not in self._staged]",
        "gone = [*self._gone, *self._spilled]",
        "A chunk that was deleted and written again is deleted by the commit.",
        ("test_txn_mapping.py::test_commit_is_what_a_dict_does", f"{ATTACKS}test_array_shrinks_and_grows"),
    ),
    Mutation(
        "gate left open",
        "context",
        '        self._close(f"{doing} and takes no further work")\n',
        "",
        "A thread writes after the decision; its chunk is in no log.",
        (f"{ATTACKS}test_commit_takes_no_new_work",),
    ),
    Mutation(
        "running writes not waited for",
        "store",
        """        with self._guard:
            while self._busy:
                self._guard.wait()
""",
        "        return\n",
        "The commit decides while a chunk is being written.",
        (f"{ATTACKS}test_commit_takes_no_new_work",),
    ),
    Mutation(
        "failed write forgotten",
        "store",
        "            self._failure = self._failure or error\n",
        "",
        "A transaction commits although one of its chunks was not written.",
        ("test_txn_faults.py::test_failing_write_that_is_swallowed_dooms_the_transaction",),
    ),
]

REPLAY = [
    Mutation(
        "root document first",
        "replay",
        "    return last, -depth, key\n",
        "    return -last, -depth, key\n",
        "Readers open the new cube before its arrays are there.",
        (COMMIT_ORDER,),
    ),
    Mutation(
        "deletions before documents",
        "replay",
        "    for (last, _), level in groupby(documents",
        "    storage.delete_many(done.removed, log.txn)\n    for (last, _), level in groupby(documents",
        "The root lists an array that is gone.",
        (COMMIT_ORDER,),
    ),
    Mutation(
        "chunks deleted before documents",
        "replay",
        "    return (0 if is_document(key) else 1), key.count",
        "    return (1 if is_document(key) else 0), key.count",
        "Readers see fill values in an array that is being deleted.",
        (COMMIT_ORDER,),
    ),
    Mutation(
        "what is written below a deleted folder is deleted",
        "replay",
        "if key not in kept}",
        "if key}",
        "What a transaction wrote below a folder that it had deleted is deleted by its commit.",
        ("test_txn_mapping.py::test_commit_is_what_a_dict_does",),
    ),
    Mutation(
        "undo after the decision",
        "replay",
        "apply(storage, log, dry_run=dry_run) if log.committed else _undo(storage, log, dry_run)",
        "_undo(storage, log, dry_run)",
        "What was reported as committed is taken back.",
        (f"{KILLS}[full-append-rollback]", KILLS),
    ),
    Mutation(
        "root not written durably last",
        "replay",
        """        if last:
            storage.sync()  # after a power cut, too, what is written last is there last
""",
        "",
        "After a power cut the consolidated root may be new, and the documents that it tells of are not.",
        (f"{ATTACKS}test_root_is_durable_last",),
    ),
    Mutation(
        "documents not durable before deletions",
        "replay",
        "    if done.removed:\n        storage.sync()\n",
        "",
        "After a power cut the root may list an array that is gone.",
        (f"{ATTACKS}test_root_is_durable_last",),
    ),
    Mutation(
        "fingerprint not checked",
        "replay",
        "        _check_same_target(storage, log)\n",
        "",
        "The log of one cube is applied to another one in its place.",
        ("test_txn_log.py::test_root_changed_by_others",),
    ),
    Mutation(
        "documents not compared by recovery",
        "replay",
        "            if now[key] not in (old, new):\n",
        "            if False:\n",
        "Recovery has done half of its work when it finds that it must not.",
        ("test_txn_log.py::test_document_changed_by_others_after_the_decision",),
    ),
    Mutation(
        "document written without comparing",
        "storage",
        "        if now not in (old, new):\n",
        "        if False:\n",
        "A document that somebody edited just now is overwritten.",
        (f"{ATTACKS}test_document_edited_while_documents_are_written",),
    ),
    Mutation(
        "documents not compared before the decision",
        "context",
        "        if changed := self._foreign_changes():\n",
        "        if changed := []:\n",
        "Attributes that somebody edited during the transaction are overwritten.",
        ("test_txn_log.py::test_document_changed_by_others_during_the_transaction",),
    ),
]

CONTEXT = [
    Mutation(
        "rolled back after the decision",
        "context",
        "            if self._is_undecided():\n",
        "            if True:\n",
        "A commit is reported as failed, and is there.",
        (ERRORS,),
    ),
    Mutation(
        "log of an unknown state removed",
        "context",
        '            self._end("failed", abandon=True)\n            unknown = (',
        '            self._clean_up("failed")\n            unknown = (',
        "Nobody can settle what may have been committed.",
        (ERRORS,),
    ),
    Mutation(
        "unknown state told as a failure",
        "context",
        "                raise CommitStateUnknown(unknown) from error\n",
        "                raise\n",
        "The caller appends again what may be there.",
        (ERRORS,),
    ),
    Mutation(
        "failure to clean up is raised",
        "context",
        '        except Exception as error:\n            logger.warning("%s: %s, but its log',
        '        except ZeroDivisionError as error:\n            logger.warning("%s: %s, but its log',
        "A commit is reported as failed, and is there.",
        (ERRORS, f"{ATTACKS}test_failure_to_clean_up_is_no_failure"),
    ),
]

OBJECTS = [
    Mutation(
        "unconditional write on S3",
        "s3",
        'condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}',
        "condition: dict[str, str] = {}",
        "Everything: two writers have the lock, late requests overwrite.",
        (f"{ATTACKS}test_s3_keeps_conditions",),
    ),
    Mutation(
        "error 500 told as a failure on S3",
        "s3",
        'if status >= 500 or status == 408 or code == "RequestTimeout":',
        "if False:",
        "A commit that was performed before the server failed is undone and told as failed.",
        (f"{ATTACKS}test_s3_tells_the_fate_of_a_write",),
    ),
    Mutation(
        "lost answer told as busy on S3",
        "s3",
        'if status in (409, 429) or code == "SlowDown":',
        'if status >= 409 or code == "SlowDown":',
        "A write that may come late is taken for one that never does.",
        (f"{ATTACKS}test_s3_tells_the_fate_of_a_write",),
    ),
    Mutation(
        "lost answer told as a refusal on S3",
        "s3",
        '        raise Unclear(f"no answer to writing {name}: {error!r}") from error\n',
        "        raise Conflict(name) from error\n",
        "A write that takes effect later is taken for one that never will.",
        (f"{ATTACKS}test_s3_tells_the_fate_of_a_write",),
    ),
    Mutation(
        "error 403 is absence on S3",
        "s3",
        """            except FileNotFoundError as error:
                _check_bucket(error)
                return None
            except""",
        """            except (FileNotFoundError, PermissionError):
                return None
            except""",
        "Undo deletes a chunk that could not be read for a moment.",
        (f"{ATTACKS}test_s3_error_is_not_absence",),
    ),
    Mutation(
        "error 500 is absence on S3",
        "s3",
        "        except FileNotFoundError:\n            return None  # or there",
        "        except Exception:\n            return None  # or there",
        "A key that is there counts as absent.",
        (f"{ATTACKS}test_s3_error_is_not_absence",),
    ),
    Mutation(
        "missing bucket is absence on S3",
        "s3",
        'answer.response["Error"].get("Code") == "NoSuchBucket":',
        'answer.response["Error"].get("Code") == "":',
        "A bucket that is not there is an empty cube.",
        (f"{ATTACKS}test_s3_bucket_that_is_missing",),
    ),
    Mutation(
        "error is absence in obstore",
        "obstore",
        """            return bytes(found.bytes()), _tag(found.meta)
        except FileNotFoundError:
            return None
""",
        """            return bytes(found.bytes()), _tag(found.meta)
        except Exception:
            return None
""",
        "Undo deletes a chunk that could not be read for a moment.",
        (f"{ATTACKS}test_s3_error_is_not_absence",),
    ),
    Mutation(
        "unconditional write in obstore",
        "obstore",
        'mode: Any = "create" if over is None else {"e_tag": over}',
        'mode: Any = "overwrite"',
        "Everything: two writers have the lock, late requests overwrite.",
        (f"{ATTACKS}test_s3_keeps_conditions",),
    ),
    Mutation(
        "obstore sends again",
        "obstore",
        'self._writes = _like(store, retry_config={"max_retries": 0})',
        'self._writes = _like(store, retry_config={"max_retries": 2})',
        "The answer to the second request says that somebody else wrote what the first one wrote.",
        (f"{ATTACKS}test_s3_tells_the_fate_of_a_write",),
    ),
    Mutation(
        "S3 sends again",
        "s3",
        '{"total_max_attempts": 1, "mode": "standard"}',
        '{"total_max_attempts": 3, "mode": "standard"}',
        "The answer to the second request says that somebody else wrote what the first one wrote.",
        (f"{ATTACKS}test_s3_tells_the_fate_of_a_write",),
    ),
    Mutation(
        "write names what is there now",
        "objectstore",
        "return self._objects.put(key, value, known.tag)",
        "return self._objects.put(key, value, self._objects.head(key))",
        "A chunk that somebody else wrote is overwritten.",
        ("test_txn_objects.py::test_chunk_changed_by_others_is_not_overwritten",),
    ),
    Mutation(
        "tag read after the proof",
        "objectstore",
        "            self.place.lease.prove()\n\n    def _change",
        "            self._known.update({k: Known(self._known[k].tag, -1, self._known[k].assumed) for k in keys})\n\n"
        "    def _change",
        "Who lost the lock reads what its successor wrote, and deletes just that.",
        (f"{ATTACKS}test_robbed_writer_deletes_nothing_of_its_successors",),
    ),
    Mutation(
        "lost answer taken for a change by others",
        "objectstore",
        """            except Conflict:
                if (now""",
        """            except (Conflict, Unclear):
                if (now""",
        "One lost request ends the transaction.",
        (f"{ATTACKS}test_one_lost_request_is_sent_again",),
    ),
    Mutation(
        "lock deleted beside litter",
        "lease",
        "                        self.found = self.littered = True\n",
        "                        self.found = True\n",
        "What a committed writer could not delete looks like a log whose lock others deleted.",
        ("test_txn_objects.py::test_who_takes_over_and_fails_leaves_the_lock_that_tells_litter_from_logs",),
    ),
    Mutation(
        "creation of the lock left without an answer",
        "lease",
        "        while not self._answered:\n            self._swap()",
        "        if False:\n            self._swap()",
        "A copy of the creation gives a lost lock back.",
        (f"{ATTACKS}test_late_creation_of_a_lock",),
    ),
    Mutation(
        "lost answer not read back",
        "lease",
        "            if found is None or found[0].nonce not in self._tried:\n",
        "            if True:\n",
        "A writer takes its own write for that of a successor.",
        (f"{ATTACKS}test_lost_answer_is_read_back",),
    ),
    Mutation(
        "unsure writer thinks that nothing was written",
        "lease",
        "            self._unsure = self._doubtful = True\n            raise\n",
        "            raise\n",
        "A commit whose answer was lost is undone although it takes effect.",
        (REQUEST_ERRORS, f"{ATTACKS}test_commit_arrives_after_it_was_given_up"),
    ),
    Mutation(
        "same nonce",
        "lease",
        "body = replace(body, nonce=os.urandom(16))",
        "body = replace(body, nonce=bytes(16))",
        "A writer takes the lock of another for its own.",
        (LIVE_WRITER,),
    ),
    Mutation(
        "lease not waited for",
        "lease",
        "return body.lease + (0.0 if",
        "return 0.0 + (0.0 if",
        "A writer that lives is robbed.",
        ("test_txn_objects.py::test_dead_writer_that_had_changed_nothing_is_waited_out",),
    ),
    Mutation(
        "quiet time not waited for",
        "lease",
        '(0.0 if body.state == "open" else self._quiet)',
        "0.0",
        "A late request brings back a state that never was.",
        (LATE_WAITED,),
    ),
    Mutation(
        "late beat is a loss",
        "lease",
        "            self.prove()  # and look",
        "            raise LockLost(self._name)  # and look",
        "A writer that was busy for a while gives up without need.",
        (f"{ATTACKS}test_late_beat_is_no_loss",),
    ),
    Mutation(
        "proof however old",
        "lease",
        "        while self._clock.now() - self._confirmed_at >=",
        "        while 0 >=",
        "Who was suspended goes on to write after it was undone.",
        (f"{ATTACKS}test_robbed_writer_writes_nothing",),
    ),
    Mutation(
        "proof that took too long",
        "lease",
        "        while self._clock.now() - self._confirmed_at >=",
        "        if self._clock.now() - self._confirmed_at >=",
        "Who was suspended while it proved that it has the lock goes on to write after it was undone.",
        (f"{ATTACKS}test_robbed_writer_writes_nothing",),
    ),
    Mutation(
        "lock deleted where deletes have no condition",
        "lease",
        "if self._objects.conditional_deletes and not self.littered and not self._body.objects:",
        "if not self.littered and not self._body.objects:",
        "The late deletion of the lock hits that of the successor.",
        (f"{ATTACKS}test_finished_lock_stays_where_deletes_have_no_condition",),
    ),
    Mutation(
        "late requests of an undo not waited for",
        "objectstore",
        "        while self._doubtful or (",
        "        while False or (",
        "A late deletion of an undo hits the same chunk of the next append.",
        (f"{ATTACKS}test_late_deletion_of_an_undo",),
    ),
    Mutation(
        "late requests of a commit not waited for",
        "objectstore",
        "        while self._doubtful or (lease.late.possible and lease.is_decided):",
        "        while self._doubtful:",
        "A late chunk comes back when a later writer has restored what it names.",
        (f"{ATTACKS}test_late_write_of_a_commit",),
    ),
    Mutation(
        "lock taken over by removing it",
        "lease",
        "                    if self._write(_inherited(body, self._lease), tag):\n",
        "                    self._objects.delete_many([LOCK_NAME])\n"
        "                    if self._write(_inherited(body, self._lease), None):\n",
        "Of two that watched a dead lock, the second one removes that of the first.",
        (f"{ATTACKS}test_two_take_over_one_lock",),
    ),
    Mutation(
        "time of a sleeping watcher counts",
        "lease",
        "passed = min(self._clock.now() - before, body.lease / BEATS_PER_LEASE)",
        "passed = self._clock.now() - before",
        "After both were suspended, the watcher robs a writer that lives.",
        (f"{ATTACKS}test_writer_and_watcher_are_suspended",),
    ),
    Mutation(
        "own late requests not waited for",
        "objectstore",
        "        self.place.lease.late.wait_out()\n        self._known.clear()\n",
        "        self._known.clear()\n",
        "A late write of the transaction itself comes after its undo.",
        (f"{ATTACKS}test_late_write_before_an_undo",),
    ),
    Mutation(
        "beat beside another change of the lock",
        "lease",
        "    def _beat(self) -> None:\n        with self._guard:\n",
        "    def _beat(self) -> None:\n        with threading.Lock():\n",
        "A beat and the decision of one owner refuse each other.",
        (f"{ATTACKS}test_beat_during_the_decision",),
    ),
    Mutation(
        "lock removed whosever it is",
        "lease",
        "                self._objects.delete(LOCK_NAME, self._tag)\n",
        "                self._objects.delete_many([LOCK_NAME])\n",
        "Who ends late removes the lock of its successor.",
        (f"{ATTACKS}test_finished_writer_does_not_remove_the_lock_of_its_successor",),
    ),
    Mutation(
        "strays swept without proof",
        "objectplace",
        """            if self._strays:
                self.lease.check()  # else what was listed may be the log of whoever has the lock now
""",
        "",
        "Who lost the lock removes the log of its successor.",
        (f"{ATTACKS}test_robbed_writer_does_not_sweep_the_log_of_its_successor",),
    ),
    Mutation(
        "late log object forgotten",
        "objectplace",
        "                self.lease.late.note()\n",
        "",
        "A log object that comes late looks like a log whose lock others deleted.",
        (f"{ATTACKS}test_log_object_without_an_answer_is_waited_out",),
    ),
    Mutation(
        "log without a lock swept away",
        "replay",
        "            storage.check_orphans()\n",
        "            pass\n",
        "A pending transaction whose lock was deleted can never be undone.",
        ("test_txn_objects.py::test_lock_deleted_by_hand_while_the_log_is_hot",),
    ),
    Mutation(
        "log object not compared with its name",
        "objectplace",
        "        if digest(found[0]) != expected:\n",
        "        if False:\n",
        "Another object under the name of one of the log counts.",
        ("test_txn_objects.py::test_named_log_object_that_is_missing_or_another_is_refused",),
    ),
    Mutation(
        "decision taken back by who takes over",
        "lease",
        'states: dict[State, State] = {"hot": "abort", "done": "open"}',
        'states: dict[State, State] = {"hot": "open", "done": "open"}',
        "The writer that was robbed is not told that its transaction is undone.",
        ("test_txn_objects.py::test_killed_at_every_request",),
    ),
]

UNDOS = "test_undo_faults.py::test_undo_killed_before_every_operation"
KEEPING = "test_undo_faults.py::test_commit_killed_before_every_operation"
TAKEN_BACK = "test_undo.py::test_each_work_of_a_transaction_taken_back"

KEPT = [
    Mutation(
        "kept log that was consumed stays",
        "kept",
        "            return heads[: -self._taken_back]\n",
        "            return heads\n",
        "A commit is taken back twice.",
        (UNDOS,),
    ),
    Mutation(
        "kept logs dropped after the head",
        "log",
        "    dropped = [head for head in kept_heads(names) if not stays(head)]\n",
        "    dropped = [head for head in kept_heads(names) if HEAD not in names and not stays(head)]\n",
        "After a kill a log counts that its commit dropped.",
        (UNDOS,),
    ),
    Mutation(
        "kept log of what is rolled back stays",
        "log",
        "else txn_of(kept) != self.txn",
        "else True",
        "A log counts whose transaction was never committed.",
        (KEEPING,),
    ),
    Mutation(
        "kept logs not named by the decision",
        "log",
        '            **({"kept": list(staying)} if staying else {}),\n',
        "",
        "A recovery that finishes a commit drops its log.",
        (KEEPING,),
    ),
    Mutation(
        "kept logs go with a roll back",
        "log",
        "        return kept in self._staying if self.committed else txn_of(kept) != self.txn",
        "        return kept in self._staying",
        "What changes nothing drops logs.",
        ("test_undo.py::test_the_last_logs_are_kept",),
    ),
    Mutation(
        "documents not compared before they are taken back",
        "kept",
        "if (None if value is None else digest(value)) != expected:",
        "if False:",
        "A change of somebody else is lost.",
        ("test_undo.py::test_a_document_that_others_changed",),
    ),
    Mutation(
        "deletions not in the kept log",
        "kept",
        "touched = dict.fromkeys((*below, *self._gone, *self._staged, *self._spilled, *self._held))",
        "touched = dict.fromkeys((*below, *self._staged, *self._spilled, *self._held))",
        "What a commit deleted does not come back.",
        (TAKEN_BACK,),
    ),
    Mutation(
        "folders of documents not in the kept log",
        "kept",
        "        self._folders_too += self._storage.missing_folders(documents)\n",
        "",
        "Folders that a commit made stay.",
        ("test_undo.py::test_documents_alone_and_nothing_at_all",),
    ),
    Mutation(
        "lock deleted that names kept logs",
        "lease",
        "not self.littered and not self._body.objects:",
        "not self.littered:",
        "Logs that were to stay are swept away by the next writer.",
        (TAKEN_BACK,),
    ),
    Mutation(
        "kept objects swept",
        "objectplace",
        "if name not in kept]",
        "]",
        "The lock names a log that is not there.",
        (TAKEN_BACK,),
    ),
]

MUTATIONS = [*LOCAL, *LOG, *STORE, *REPLAY, *CONTEXT, *OBJECTS, *KEPT]
