package sample

import com.cloudbees.groovy.cps.NonCPS
import io.tidegate.Follower

/** Contains one mistake per rule: the check fails when a rule does not find its mistake here. */
class Mistaken {
    def script

    String toString() {
        return "${ -> 'evaluated too late' }"
    }

    @NonCPS
    void callStep() {
        new Follower(null, null).skipPast('r1')
    }

    void holdThread() {
        Thread thread = new Thread()
        script.echo(thread.name)
        [2, 1].sort { it }
    }

    void read(InputStream source) {
        script.echo(source.text)
    }
}
