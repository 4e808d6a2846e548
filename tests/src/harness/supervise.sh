# Runs a program for a test and ends it with the test, however the test ends: the test holds the write end of
# our stdin, so its death is our end of file. Arguments: directory for notes, program, its arguments.
# SUPERVISE_OWNED: directory that goes with the program: processes that name it, mounts in it, itself.
notes=$1
owned=$SUPERVISE_OWNED
unset SUPERVISE_OWNED
shift
# A background command of a shell gets /dev/null as stdin, so the pipe moves to another number.
exec 3<&0 </dev/null

"$@" 3<&- &
pid=$!
echo "$pid" >"$notes/pid"

(
	exec >/dev/null
	word=
	read -r word <&3
	# "leave": the test has ended the program in its own way and looks after the rest.
	echo "$word" >"$notes/word"
	[ "$word" = leave ] && exit
	kill -TERM "$pid" 2>/dev/null || exit
	for _ in $(seq 100); do
		kill -0 "$pid" 2>/dev/null || exit
		sleep 0.1
	done
	kill -KILL "$pid" 2>/dev/null
) &
watcher=$!

wait "$pid"
echo $? >"$notes/exit.new"
mv "$notes/exit.new" "$notes/exit"
exec >/dev/null
wait "$watcher"

if [ -n "$owned" ] && [ "$(cat "$notes/word")" != leave ]; then
	host=$(readlink /proc/self/ns/mnt)
	for round in 1 2 3; do
		for process in /proc/[0-9]*; do
			# Our own arguments name it as well.
			[ "$process" = "/proc/$$" ] && continue
			# Steps do not name the directory, but their own mount namespace does.
			if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -qF "$owned" ||
				{ [ "$(readlink "$process/ns/mnt")" != "$host" ] && grep -qF "$owned" "$process/mountinfo" 2>/dev/null; }; then
				kill -KILL "${process#/proc/}" 2>/dev/null
			fi
		done
		awk -v owned="$owned/" 'index($5, owned) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
			while read -r mount; do umount -l "$(printf '%b' "$mount")"; done
		sleep 0.1
	done 2>/dev/null
	# What a killed server could not remove; its next start would.
	for link in /run/sealwright-*/*/state; do
		case $(readlink "$link") in "$owned"/*)
			private=${link%/*/*}
			find /sys/fs/cgroup -depth -type d -path "*/${private##*/}-*" -exec rmdir {} \;
			rm -rf "$private"
			;;
		esac
	done 2>/dev/null
	rm -rf --one-file-system "$owned"
fi
rm -rf "$notes"
