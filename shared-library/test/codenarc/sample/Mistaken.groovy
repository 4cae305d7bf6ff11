package sample

import com.cloudbees.groovy.cps.NonCPS
import io.tidegate.Follower

/** Makes the mistake of each rule once: the rules are trusted only as long as they find them all here. */
class Mistaken {
    def script

    String toString() {
        return "${ -> 'evaluated when it is too late' }"
    }

    @NonCPS
    void tell() {
        new Follower(null, null).skip('r1')
    }

    void kept() {
        Thread thread = new Thread()
        script.echo(thread.name)
        [2, 1].sort { it }
    }

    void read(InputStream source) {
        script.echo(source.text)
    }
}
