# Ends what a sandbox started, once nobody holds the other end of its standard input: at an orderly end, and when
# the process that made it was killed. Lines in: `group PID`, `ended PID`, `folder PATH`, `container NAME`.
trap '' HUP INT TERM
groups=' '
containers=
while read -r verb what; do
  case $verb in
    group) groups="$groups$what " ;;
    ended) groups="${groups%%" $what "*} ${groups#*" $what "}" ;;
    folder) set -- "$@" "$what" ;;
    container) containers="$containers $what" ;;
  esac
done
for group in $groups; do kill -KILL "-$group"; done 2>/dev/null
[ -z "$containers" ] || docker rm --force --volumes $containers >/dev/null 2>&1
# The dying still write: a few tries.
for _ in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf --one-file-system -- "$@" 2>/dev/null && exit
  sleep 0.1
done
